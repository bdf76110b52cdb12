"""`hat cloud` and `hat device` as a user meets them: what each setting is for, and its range."""

import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from cloud_server.config import CloudConfig
from device_runtime.config import DeviceConfig
from hat.settings.tables import About, Program, program
from process.listening.addresses import parse_networks

_MAX_TOKENS = 1 << 24
_MAX_COUNT = 1 << 16
_DAY_S = 86400.0


def _port(what: str) -> About:
    return About(f"Port {what}.", minimum=1, maximum=65535)


def _seconds(text: str) -> About:
    return About(text, minimum=0, maximum=_DAY_S)


def _not_empty(value: str) -> str | None:
    return None if value.strip() else "some text"


def _names(value: tuple[str, ...]) -> str | None:
    return None if all(name.strip() for name in value) else "names that are not empty"


def _websocket_url(value: str) -> str | None:
    expected = "a URL like ws://gpu-server:7700 or wss://gpu-server:7700"
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        return expected
    return None if usable else expected


def _json_object(value: str) -> str | None:
    try:
        is_object = isinstance(json.loads(value), dict)
    except json.JSONDecodeError:
        is_object = False
    return None if is_object else "a JSON object"


def _networks(values: tuple[str, ...]) -> str | None:
    try:
        parse_networks(values)
    except ValueError:
        return "addresses or networks such as 10.0.0.1 or 10.0.0.0/8"
    return None


_SECRET = "File with the secret that the device shows to the cloud; without one, any device may in."

_COMMON: Mapping[str, About] = {
    "verify_weights": About(
        "Hash every file of the bundle; left out: large ones once for each version of them."
    ),
    "threads": About(
        "Threads of the engine; left out: one fewer than there are cores.", minimum=1, maximum=1024
    ),
    "drain_timeout_s": _seconds("Seconds that running work may take after SIGTERM or Ctrl-C."),
    "log_level": About("The least important messages that are shown."),
    "log_format": About("Log lines for people (text) or for programs (json)."),
}

_CLOUD: Mapping[str, About] = {
    "bundle": About("The cloud/ folder that `hat split` wrote.", argument=True),
    "host": About("Address to listen on; 0.0.0.0 for all.", check=_not_empty),
    "port": _port("that devices connect to"),
    "engine": About("What runs the middle layers: torch on one CPU or GPU, vllm on many."),
    "device": About(
        "Where they run: auto, cpu, cuda or cuda:1. auto takes a GPU if there is one.",
        check=_not_empty,
    ),
    "dtype": About(
        "Number format of the middle layers; auto: as in the bundle, on a processor float32 "
        "if that is measured to be faster.",
        auto="the bundle's; on a processor float32 if that fits and is measured to be faster",
    ),
    "wire_dtype": About(
        "Number format of rows on the link; auto: as in the bundle; float32 for exactness.",
        auto="the bundle's, whatever the layers compute in",
    ),
    "secret": About(_SECRET, secret=True, shared_variable="HAT_SECRET"),
    "tls_certificate": About("Certificate chain (PEM); devices then connect to wss://."),
    "tls_key": About("Private key (PEM) of the certificate."),
    "trusted_proxies": About(
        "Addresses or networks, such as 10.0.0.0/8, of proxies whose X-Forwarded-For is believed.",
        check=_networks,
    ),
    "capacity_tokens": About(
        "KV cache over all sessions, in tokens; left out: what the memory allows.",
        minimum=1,
        maximum=1 << 40,
        tokens=True,
    ),
    "max_context_tokens": About(
        "Longest session; left out: the model's context.",
        minimum=1,
        maximum=_MAX_TOKENS,
        tokens=True,
    ),
    "max_sessions": About("Most sessions at once.", minimum=1, maximum=_MAX_COUNT),
    "max_connections": About("Most devices at once.", minimum=1, maximum=_MAX_COUNT),
    "identity_share": About(
        "Most of the sessions, KV cache and connections that one address may have while others are"
        " connected, as a share; 1 where a proxy or NAT stands before all devices.",
        minimum=0.001,
        maximum=1,
    ),
    "max_sockets": About(
        "Most sockets at once, those of no device yet included; left out: 1024 or more, as far as "
        "the limit of open files allows.",
        minimum=1,
        maximum=_MAX_COUNT,
    ),
    "max_sockets_per_address": About(
        "Most sockets of one address, and of one /64 in IPv6; left out: half of all.",
        minimum=1,
        maximum=_MAX_COUNT,
    ),
    "step_budget_tokens": About(
        "Most rows in one step of the engine.", minimum=1, maximum=_MAX_TOKENS, tokens=True
    ),
    "target_step_s": About(
        "Seconds that a step should take at the most: somebody who decodes beside a long prompt"
        " waits about two of them. Steps get as few rows as that takes; 0: no such target.",
        minimum=0,
        maximum=_DAY_S,
    ),
    "max_frame_tokens": About(
        "Most rows in one frame of a device, which holds up what is behind it on its socket.",
        minimum=1,
        maximum=_MAX_TOKENS,
        tokens=True,
    ),
    "heartbeat_s": About(
        "Seconds of silence after which a device counts as gone.", minimum=1, maximum=3600
    ),
    "session_ttl_s": _seconds("Seconds that a session waits for its device to come back."),
    "queue_deadline_s": _seconds(
        "A new session is refused while its first rows would wait longer; none in being is ended."
    ),
    "tensor_parallel_size": About(
        "vLLM: GPUs that share each layer.", minimum=1, maximum=_MAX_COUNT
    ),
    "pipeline_parallel_size": About(
        "vLLM: stages that the layers are cut into, one behind the other.",
        minimum=1,
        maximum=_MAX_COUNT,
    ),
    "nnodes": About("vLLM: machines that share the layers.", minimum=1, maximum=_MAX_COUNT),
    "node_rank": About(
        "vLLM: which of them this is; devices connect to number 0.", minimum=0, maximum=_MAX_COUNT
    ),
    "master_addr": About("vLLM: address of machine 0 for the others.", check=_not_empty),
    "master_port": _port("of machine 0 for the others, a private network's only"),
    "distributed_executor_backend": About("vLLM: what starts the workers."),
    "gpu_memory_utilization": About(
        "vLLM: share of a GPU's memory to use; left out: vLLM's own.", minimum=0.01, maximum=1
    ),
    "kv_cache_memory": About(
        "vLLM: bytes of KV cache per worker; left out: what the share above leaves.",
        minimum=1,
        maximum=1 << 46,
        tokens=True,
        metavar="BYTES",
    ),
    "quantization": About("vLLM: how the weights are quantised, such as fp8.", check=_not_empty),
    "vllm_args": About(
        "vLLM: further engine arguments as a JSON object, such as '{\"enforce_eager\": true}'.",
        check=_json_object,
    ),
    **_COMMON,
}

_DEVICE: Mapping[str, About] = {
    "bundle": About("The device/ folder that `hat split` wrote.", argument=True),
    "host": About("Address of the HTTP endpoint; 0.0.0.0 for all.", check=_not_empty),
    "port": _port("of the HTTP endpoint"),
    "cloud": About("Where `hat cloud` listens.", check=_websocket_url),
    "engine": About("What runs the input and output submodels."),
    "weights": About("Which of the bundle's ONNX weights to use."),
    "drafter": About(
        "How tokens are drafted: by the bundle's adapter, by prompt lookup (ngram), by the "
        "bundle's Medusa heads, or not at all; auto: by the adapter if there is one "
        "and it measured faster than ngram, else ngram."
    ),
    "draft_tokens": About(
        "Most tokens per draft; left out: 4, what the adapter was calibrated for, or one per head.",
        minimum=1,
        maximum=64,
    ),
    "draft_weights": About(
        "ONNX weights of the adapter and of the head that drafts; they change no answer."
    ),
    "draft_ahead": About(
        "Whether the adapter drafts on while the cloud verifies; auto: while that is seen to pay."
    ),
    "chunking": About(
        "How prompts are cut: by measured link and cloud, by the paper's rule, or in equal chunks."
    ),
    "chunk_tokens": About(
        "Tokens per chunk of a prompt with fixed chunking; 0 sends it whole.",
        minimum=0,
        maximum=_MAX_TOKENS,
        tokens=True,
    ),
    "secret": About(_SECRET, secret=True, shared_variable="HAT_SECRET"),
    "cloud_ca": About("Certificate authority (PEM) to trust for wss://; left out: the system's."),
    "api_key": About(
        "File with the key that HTTP clients must send; without one, anyone may ask.",
        secret=True,
        shared_variable="HAT_API_KEY",
    ),
    "cors_origins": About(
        "Web origins whose pages may call the endpoint: localhost for this machine's, * for all."
    ),
    "allowed_hosts": About(
        "Further names under which the endpoint may be asked, such as hat.example or *.example; "
        "* for any."
    ),
    "served_model_name": About(
        "Names in /v1/models, the first of which answers carry; left out: the bundle's.",
        check=_names,
    ),
    "max_model_len": About(
        "Most tokens of prompt and answer together; left out: the model's context.",
        minimum=2,
        maximum=_MAX_TOKENS,
        tokens=True,
    ),
    "generation_config": About(
        "Whether requests that say nothing are sampled as the model's generation_config.json says."
    ),
    "sampling_defaults": About(
        "How they are sampled instead: temperature, top_p, top_k, min_p, repetition_penalty.",
        metavar="NAME=VALUE,...",
    ),
    "max_num_seqs": About("Answers generated at once.", minimum=1, maximum=_MAX_COUNT),
    "reconnect_timeout_s": _seconds(
        "Seconds that answers in progress wait for a lost cloud; 0 ends them at once."
    ),
    "heartbeat_s": About(
        "Seconds of silence after which the link to the cloud counts as lost.",
        minimum=1,
        maximum=3600,
    ),
    "max_queue": About("Answers that may wait beyond those.", minimum=0, maximum=_MAX_COUNT),
    "kept_sessions": About(
        "Finished answers whose caches are kept for a conversation's next turn; 0: none.",
        minimum=0,
        maximum=_MAX_COUNT,
    ),
    **_COMMON,
}


def cloud_program() -> Program[CloudConfig]:
    """The settings of `hat cloud`."""
    return program("cloud", CloudConfig, _CLOUD)


def device_program() -> Program[DeviceConfig]:
    """The settings of `hat device`."""
    return program("device", DeviceConfig, _DEVICE)
