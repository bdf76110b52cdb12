"""The settings of a cloud daemon, read once and passed down, and what each is for."""

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Literal

from cloud_server.number_format import DtypeSetting
from process.errors import StartError
from process.listening.addresses import parse_networks
from process.program.about import (
    about,
    abouts,
    bundle_key,
    congestion_control,
    count,
    drain_timeout,
    engine_threads,
    hash_every_file,
    least_level,
    line_format,
    link_secret,
    seconds,
    setting,
    some_text,
    tcp_port,
    tokens,
)
from process.program.logs import LogFormat, LogLevel

_LAST_PORT = 65535


def _networks(values: tuple[str, ...]) -> str | None:
    try:
        parse_networks(values)
    except ValueError:
        return "addresses or networks such as 10.0.0.1 or 10.0.0.0/8"
    return None


def _host_names(values: tuple[str, ...]) -> str | None:
    is_fine = all(re.fullmatch(r"[A-Za-z0-9_.:*-]{1,253}", value) for value in values)
    return None if is_fine else "host names or addresses such as gpu-server or 10.0.0.1"


def _json_object(value: str) -> str | None:
    try:
        is_object = isinstance(json.loads(value), dict)
    except json.JSONDecodeError:
        is_object = False
    return None if is_object else "a JSON object"


@dataclass(frozen=True, slots=True)
class CloudConfig:
    """Settings of `hat cloud`. `None` means: chosen at start, and printed.

    Those for the engine vllm have vLLM's own names.
    """

    bundle: Path = field(metadata=about("The cloud/ folder that `hat split` wrote.", argument=True))
    host: str = some_text("127.0.0.1", "Address to listen on; 0.0.0.0 for all.")
    port: int = tcp_port(7700, "that devices connect to")
    metrics_host: str = some_text(
        "127.0.0.1",
        "Address of its own on which /metrics is; 0.0.0.0 for all. Beyond this machine it speaks "
        "TLS with the same certificate, unless --insecure is there.",
    )
    metrics_port: int | None = tcp_port(
        None, "of /metrics; left out: the one above --port, if that is free"
    )
    engine: Literal["torch", "vllm"] = setting(
        "torch", "What runs the middle layers: torch on one CPU or GPU, vllm on many."
    )
    device: str = some_text(
        "auto", "Where they run: auto, cpu, cuda or cuda:1. auto takes a GPU if there is one."
    )
    verify_weights: bool = hash_every_file()
    bundle_key: str | None = bundle_key()
    dtype: DtypeSetting = setting(
        "auto",
        "Number format of the middle layers; auto: as in the bundle, on a processor float32 if "
        "that is measured to be faster.",
        auto="the bundle's; on a processor float32 if that fits and is measured to be faster",
    )
    wire_dtype: DtypeSetting = setting(
        "auto",
        "Number format of rows on the link; auto: as in the bundle; float32 for exactness.",
        auto="the bundle's, whatever the layers compute in",
    )
    wire_codec: Literal["exact", "raw"] = setting(
        "exact",
        "What rows on the link may be in, as devices choose: exact is shorter and gives the same "
        "bits again; raw: as they are, always.",
    )
    allow_lossy_codecs: bool = setting(
        False, "Let devices whose operators ask for it round rows to 8 or 6 bits: answers change."
    )
    serve_device_bundle: Path | None = setting(
        None,
        "The device/ folder of the same split, for devices that show the secret to fetch; this "
        "machine then holds all layers; left out: nothing is served.",
    )
    bundle_mbit_per_s: float = setting(
        200.0, "Mbit/s that serving it may take, all devices together.", 1, 1_000_000
    )
    threads: int | None = engine_threads()
    secret: str | None = link_secret()
    tokens_file: Path | None = setting(
        None,
        "File with the names that may come and the hashes of their tokens, as `hat token` writes "
        "it; left out: hat/tokens.json in the user's configuration folder, once it is there.",
        metavar="FILE",
    )
    tls_certificate: Path | None = setting(
        None, "Certificate chain (PEM); devices then connect to wss://."
    )
    tls_key: Path | None = setting(None, "Private key (PEM) of the certificate.")
    """These files, and that of client certificates, are read anew when they change."""
    tls_client_ca: Path | None = setting(
        None,
        "Certificate authority (PEM) whose client certificates let a device in, as the name in its "
        "certificate; a device without one shows a secret or a token.",
    )
    tls_self_signed: bool = setting(
        False,
        "Make a key and a certificate, keep them in HAT_CACHE or the user's cache folder, and "
        "print the pin by which devices know them (--cloud-pin).",
    )
    tls_names: tuple[str, ...] = setting(
        (),
        "Further host names and addresses for that certificate; devices that pin it look at none.",
        check=_host_names,
    )
    insecure: bool = setting(
        False,
        "Listen beyond this machine without TLS: in a private network, or behind a proxy with TLS. "
        "With a certificate this is of the figures alone.",
    )
    congestion_control: str | None = congestion_control()
    """Of what goes down to devices; a device's setting is of what goes up."""
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Addresses or networks, such as 10.0.0.0/8, of proxies whose X-Forwarded-For is believed.",
        check=_networks,
    )
    capacity_tokens: int | None = tokens(
        None,
        "KV cache over all sessions, in tokens; left out: what the memory allows.",
        maximum=1 << 40,
    )
    host_cache_gib: float | None = setting(
        None,
        "Memory of this machine, in GiB, for idle sessions whose room in the KV cache others need; "
        "left out: half of what is free; 0: they end instead.",
        0,
        1 << 20,
    )
    max_context_tokens: int | None = tokens(None, "Longest session; left out: the model's context.")
    max_sessions: int = count(256, "Most sessions at once.")
    max_connections: int = count(256, "Most devices at once.")
    identity_share: float = setting(
        0.5,
        "Most of the sessions, KV cache and connections that one address may have while others "
        "are connected, as a share; 1 where a proxy or NAT stands before all devices.",
        0.001,
        1,
    )
    max_sockets: int | None = count(
        None,
        "Most sockets at once, those of no device yet included; left out: 1024 or more, as far as"
        " the limit of open files allows.",
    )
    max_sockets_per_address: int | None = count(
        None, "Most sockets of one address, and of one /64 in IPv6; left out: half of all."
    )
    step_budget_tokens: int = tokens(512, "Most rows in one step of the engine.")
    target_step_s: float = seconds(
        0.25,
        "Seconds that a step should take at the most: steps get as few rows as that takes. While "
        "somebody decodes, prompts fill them only so far that he waits about half as long again; "
        "0: no such target, and no such limit.",
    )
    max_frame_tokens: int = tokens(
        512, "Most rows in one frame of a device, which holds up what is behind it on its socket."
    )
    session_ttl_s: float = seconds(
        60.0, "Seconds that a session waits for its device to come back."
    )
    heartbeat_s: float = seconds(
        120.0, "Seconds of silence after which a device counts as gone.", 1, 3600
    )
    queue_deadline_s: float = seconds(
        30.0,
        "A new session is refused while its first rows would wait longer; none in being is ended.",
    )
    drain_timeout_s: float = drain_timeout()
    tensor_parallel_size: int = count(1, "vLLM: GPUs that share each layer.", engine="vllm")
    pipeline_parallel_size: int = count(
        1, "vLLM: stages that the layers are cut into, one behind the other.", engine="vllm"
    )
    nnodes: int = count(1, "vLLM: machines that share the layers.", engine="vllm")
    node_rank: int = count(
        0, "vLLM: which of them this is; devices connect to number 0.", 0, engine="vllm"
    )
    master_addr: str = some_text(
        "127.0.0.1", "vLLM: address of machine 0 for the others.", engine="vllm"
    )
    master_port: int = tcp_port(
        29501, "of machine 0 for the others, a private network's only", engine="vllm"
    )
    distributed_executor_backend: Literal["mp", "ray"] = setting(
        "mp", "vLLM: what starts the workers.", engine="vllm"
    )
    gpu_memory_utilization: float | None = setting(
        None, "vLLM: share of a GPU's memory to use; left out: vLLM's own.", 0.01, 1, engine="vllm"
    )
    kv_cache_memory: int | None = setting(
        None,
        "vLLM: bytes of KV cache per worker; left out: what the share above leaves.",
        1,
        1 << 46,
        tokens=True,
        metavar="BYTES",
        engine="vllm",
    )
    quantization: str | None = some_text(
        None, "vLLM: how the weights are quantised, such as fp8.", engine="vllm"
    )
    vllm_args: str | None = setting(
        None,
        "vLLM: further engine arguments as a JSON object, such as '{\"enforce_eager\": true}'.",
        check=_json_object,
        engine="vllm",
    )
    log_level: LogLevel = least_level("info")
    log_format: LogFormat = line_format("text")


VLLM_ONLY: Final = tuple(n for n, about in abouts(CloudConfig).items() if about.engine == "vllm")


def metrics_port(config: CloudConfig) -> int:
    """Where its figures are; 0 takes a free port, as it does for devices."""
    if config.metrics_port is not None:
        return config.metrics_port
    return beside(config.port)


def beside(port: int) -> int:
    """The port of the figures of a cloud that listens there, if nothing else is said."""
    if port == 0:
        return 0
    return port + 1 if port < _LAST_PORT else port - 1


def context_tokens(config: CloudConfig, model_context: int) -> int:
    """The longest session: the model's, or what was asked for.

    Raises:
        StartError: more was asked for than the model was made for.
    """
    context = config.max_context_tokens or model_context
    if context > model_context:
        raise StartError(
            f"max_context_tokens {context}: this model was made for at most {model_context}"
        )
    return context


def check_torch_settings(config: CloudConfig) -> None:
    """Return if nothing was set that the engine torch does not know.

    Raises:
        StartError: something was.
    """
    defaults = {each.name: each.default for each in fields(config)}
    for name in VLLM_ONLY:
        value = getattr(config, name)
        if value != defaults[name]:
            raise StartError(f"{name} {value}: only engine vllm has this setting")


def check_vllm_settings(config: CloudConfig) -> None:
    """Return if nothing was set that the engine vllm does not know, and its nodes make sense.

    Raises:
        StartError: something was, or they do not.
    """
    if config.device != "auto":
        raise StartError(f"device {config.device}: engine vllm takes what vLLM was built for")
    if config.threads is not None:
        raise StartError("threads: engine vllm binds its own, see VLLM_CPU_OMP_THREADS_BIND")
    if config.node_rank >= config.nnodes:
        raise StartError(
            f"node_rank {config.node_rank}: expected less than nnodes, {config.nnodes}"
        )
    num_workers = config.tensor_parallel_size * config.pipeline_parallel_size
    if num_workers % config.nnodes:
        raise StartError(
            f"nnodes {config.nnodes}: expected a divisor of the {num_workers} workers"
            " (tensor_parallel_size times pipeline_parallel_size)"
        )
