"""The middle layers on vLLM, below its scheduler: its weights, kernels, KV blocks and processes.

`plugin` and `models` tell vLLM of the middle as a model class, `worker` runs one step in every
worker process, `paged_cache` decides which blocks hold what, `engine` joins them, and `start`
makes an engine from the operator's settings. No module here imports vLLM at its top but `worker`
and `models`, which only vLLM's own processes load.
"""
