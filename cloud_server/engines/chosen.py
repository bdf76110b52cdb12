"""The engine that the settings name, in this process or in one of its own."""

from cloud_server.config import CloudConfig, check_torch_settings
from cloud_server.engines.hosting.process import can_host, in_own_process
from cloud_server.engines.loading import EngineLoader, LoadedEngine
from process.errors import StartError
from submodels.bundle.bundle import Bundle


def loader_for(config: CloudConfig) -> EngineLoader:
    """How a daemon loads its engine: torch in a process of its own where the system allows that.

    vLLM starts its own. Torch's operators let go of the interpreter lock and then wait for it,
    several hundred times in a step, so whatever the event loop does would delay steps.
    """
    if config.engine == "torch" and can_host():
        return in_own_process(load_chosen_engine)
    return load_chosen_engine


def load_chosen_engine(bundle: Bundle, config: CloudConfig) -> LoadedEngine:
    """The engine that the settings name; it is imported here, in the engine's thread.

    Raises:
        StartError: what it needs is not installed, or it refuses.
    """
    if config.engine == "vllm":
        from cloud_server.engines.vllm.bundle import load_vllm_engine

        return load_vllm_engine(bundle, config)
    check_torch_settings(config)
    try:
        from cloud_server.engines.torch.bundle import load_torch_engine
    except ImportError as error:
        raise StartError(
            f"the engine needs torch ({error}): pip install 'hat-serving[cloud]'"
        ) from error
    return load_torch_engine(bundle, config)
