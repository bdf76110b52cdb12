"""The settings of a device, read once and passed down, and what each is for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from process.addresses import is_url
from process.errors import ConfigError
from process.program.about import (
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
from process.tls.certificates import parse_pin
from wire.limits import MAX_LANES

Weights = Literal["float32", "int8", "int4"]
OnnxProvider = Literal[
    "cpu",
    "auto",
    "cuda",
    "tensorrt",
    "migraphx",
    "coreml",
    "directml",
    "openvino",
    "qnn",
    "webgpu",
]


def _websocket_url(value: str) -> str | None:
    expected = "a URL like ws://gpu-server:7700 or wss://gpu-server:7700"
    if not is_url(value, ("ws", "wss")):
        return expected
    without = "without a user or a password: a secret comes from --secret-file"
    return None if urlsplit(value).username is None else f"{expected}, {without}"


def http_url(value: str) -> str | None:
    """What a value should have been, unless it is an address of HTTP."""
    return None if is_url(value, ("http", "https")) else "a URL like http://127.0.0.1:4318"


def _pins(values: tuple[str, ...]) -> str | None:
    try:
        for value in values:
            parse_pin(value)
    except ValueError:
        return "sha256/ and a key's hash in base64, as `hat cloud` prints it"
    return None


def _names(value: tuple[str, ...]) -> str | None:
    return None if all(name.strip() for name in value) else "names that are not empty"


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """Settings of `hat device`. `None` means: chosen at start, and printed."""

    bundle: Path | None = setting(
        None,
        "The device/ folder that `hat split` wrote; left out: fetched from the cloud, if that "
        "serves it.",
        argument=True,
    )
    host: str = some_text("127.0.0.1", "Address of the HTTP endpoint; 0.0.0.0 for all.")
    port: int = tcp_port(8000, "of the HTTP endpoint")
    cloud: str = setting("ws://127.0.0.1:7700", "Where `hat cloud` listens.", check=_websocket_url)
    engine: Literal["onnx", "torch"] = setting("onnx", "What runs the input and output submodels.")
    weights: Weights = setting("float32", "Which of the bundle's ONNX weights to use.")
    """float32 computes what the checkpoint says; the others are smaller, faster, and change
    answers."""
    onnx_provider: OnnxProvider = setting(
        "cpu",
        "Where ONNX Runtime runs layers and head, if it has that execution provider; auto: where "
        "the answers are the CPU's and come sooner.",
    )
    """Checked at start against the CPU's answers: see docs/devices.md."""
    onnx_provider_options: tuple[str, ...] = setting(
        (),
        "Options of a provider that is named, such as device_id=1 for cuda.",
        metavar="NAME=VALUE,...",
    )
    verify_weights: bool = hash_every_file()
    bundle_key: str | None = bundle_key()
    threads: int | None = engine_threads()
    drafter: Literal["auto", "adapter", "suffix", "ngram", "medusa", "none"] = setting(
        "auto",
        "How tokens are drafted: by the bundle's adapter, by what followed the same words before "
        "in this text and earlier ones (suffix), by prompt lookup in this text (ngram), by the "
        "bundle's Medusa heads, or not at all; auto: by suffix and the adapter if there is "
        "one, in each round by what is seen to bring most.",
    )
    tool_format: Literal[
        "auto",
        "hermes",
        "qwen3-coder",
        "llama3",
        "mistral",
        "mistral-tekken",
        "mistral-args",
        "deepseek-v3",
        "deepseek-v3.1",
        "functionary",
        "glm-4.5",
        "glm-4.7",
        "pythonic",
        "xlam",
        "nemotron",
        "generic",
    ] = setting(
        "auto",
        "How the model writes calls of tools; auto: as its chat template writes them, and where "
        "that knows of none as a list of JSON objects, which it is told (generic).",
    )
    sanitize_control_tokens: bool = setting(
        False,
        "Whether what users and tools say in a conversation is kept from being read as control "
        "tokens, such as an end of turn; by itself it is read as transformers and vLLM read it.",
    )
    suffix_memory_tokens: int = tokens(
        262_144,
        "Tokens of earlier requests and answers that are kept in memory for drafts, about 60 bytes "
        "each, oldest out first; 0: none.",
        0,
        1 << 26,
    )
    """They are never written anywhere, and a request with `store` false leaves none."""
    draft_tokens: int | None = setting(
        None,
        "Most tokens per draft; left out: 4, what the adapter was calibrated for, or one per head.",
        1,
        64,
    )
    draft_weights: Weights = setting(
        "int8", "ONNX weights of the adapter and of the head that drafts; they change no answer."
    )
    draft_ahead: Literal["auto", "off"] = setting(
        "off",
        "Whether the adapter drafts on while the cloud verifies (parallel drafting); auto: while "
        "that is seen to pay. Only with pipelining off.",
    )
    pipelining: Literal["auto", "off"] = setting(
        "auto",
        "Whether drafts are sent on behind one that is not decided; auto: while that is seen to "
        "pay.",
    )
    chunking: Literal["adaptive", "paper", "fixed"] = setting(
        "adaptive",
        "How prompts are cut: by measured link and cloud, by the paper's rule, or in equal chunks.",
    )
    chunk_tokens: int = tokens(
        64, "Tokens per chunk of a prompt with fixed chunking; 0 sends it whole.", 0
    )
    wire_codec: Literal["auto", "exact", "raw"] = setting(
        "auto",
        "What rows on the link are in: exact takes a third fewer bytes and gives the same bits "
        "again; auto: exact where the link is slower than that takes time; raw: as they are.",
    )
    lossy_prompt: Literal["off", "int8", "int6"] = setting(
        "off",
        "Round the rows of prompts to so many bits, where the cloud allows it. This changes "
        "answers; docs/codecs.md says by how much.",
    )
    lossy_up: Literal["off", "int8", "int6"] = setting(
        "off", "The same for all other rows to the cloud. This changes answers."
    )
    lossy_down: Literal["off", "int8", "int6"] = setting(
        "off", "The same for rows from the cloud, where it costs most. This changes answers."
    )
    pad_frames: bool = setting(
        False,
        "Give coded rows a length that does not depend on what they hold; costs 7 % of them.",
    )
    secret: str | None = link_secret()
    cloud_ca: Path | None = setting(
        None, "Certificate authority (PEM) to trust for wss://; left out: the system's."
    )
    cloud_client_cert: Path | None = setting(
        None, "Certificate (PEM) that this device shows to the cloud, in place of a secret."
    )
    cloud_client_key: Path | None = setting(None, "Private key (PEM) of that certificate.")
    cloud_pin: tuple[str, ...] = setting(
        (),
        "Trust the cloud by its key alone, whatever certificate it shows; several: any of them.",
        check=_pins,
        metavar="sha256/...",
    )
    """With a certificate authority both must do."""
    insecure: bool = setting(
        False, "Let the secret and rows go unencrypted, by ws://, to a cloud on another machine."
    )
    kept_bundles: int = count(
        3,
        "Bundles fetched from clouds that stay in the cache, those that were used last; older ones "
        "that no device runs with are removed when one is fetched or used.",
    )
    connections: int | None = setting(
        None,
        "Connections to the cloud at once: all but the first carry prompts, which so hold up no "
        "answers and start faster after a pause; left out: as many as the link is worth.",
        1,
        1 + MAX_LANES,
    )
    congestion_control: str | None = congestion_control()
    """Of what goes up; the cloud's setting is of what comes down."""
    api_key: str | None = setting(
        None,
        "File with the key that HTTP clients must send; without one, anyone may ask.",
        secret=True,
        shared_variable="HAT_API_KEY",
    )
    cors_origins: tuple[str, ...] = setting(
        ("localhost",),
        "Web origins whose pages may call the endpoint: localhost for this machine's, * for all.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "Further names under which the endpoint may be asked, such as hat.example or *.example; *"
        " for any.",
    )
    """With none, any name will do where it listens on more than this machine."""
    served_model_name: tuple[str, ...] = setting(
        (),
        "Names in /v1/models, the first of which answers carry; left out: the bundle's.",
        check=_names,
    )
    max_model_len: int | None = tokens(
        None, "Most tokens of prompt and answer together; left out: the model's context.", 2
    )
    generation_config: Literal["auto", "none"] = setting(
        "auto",
        "Whether requests that say nothing are sampled as the model's generation_config.json says.",
    )
    sampling_defaults: tuple[str, ...] = setting(
        (),
        "How they are sampled instead: temperature, top_p, top_k, min_p, repetition_penalty.",
        metavar="NAME=VALUE,...",
    )
    """These come first, then the model's file, then OpenAI's defaults."""
    max_num_seqs: int = count(16, "Answers generated at once.")
    max_queue: int = count(64, "Answers that may wait beyond those.", 0)
    kept_sessions: int = count(
        4,
        "Finished answers whose caches are kept for a conversation's next turn; 0: none, and "
        "answers in progress whose prompts begin alike share nothing either.",
        0,
    )
    kept_sessions_folder: Path | None = setting(
        None,
        "A folder where kept sessions outlive this program, whose next run takes them up. The "
        "token ids of their texts lie there, for you alone to read; left out: nothing is written.",
    )
    """A request with `store` false leaves none; nor does a device with output layers."""
    drain_timeout_s: float = drain_timeout()
    reconnect_timeout_s: float = seconds(
        30.0, "Seconds that answers in progress wait for a lost cloud; 0 ends them at once."
    )
    when_cloud_gone: Literal["fail", "draft"] = setting(
        "fail",
        "What a request gets while there is no cloud: a 503, or an answer of the adapter's draft "
        "model alone, which is worse than the model's and marked as such wherever it is told.",
    )
    """Of one answer all tokens are the model's or none is: one that has begun waits as ever."""
    heartbeat_s: float = seconds(
        10.0, "Seconds of silence after which the link to the cloud counts as lost.", 1, 3600
    )
    otlp_endpoint: str | None = setting(
        None,
        "Collector that spans of requests go to (OTLP over HTTP), without prompts and tokens; left "
        "out: what OTEL_EXPORTER_OTLP_ENDPOINT names, else none.",
        check=http_url,
    )
    log_level: LogLevel = least_level("info")
    log_format: LogFormat = line_format("text")

    @property
    def bundle_path(self) -> Path:
        """The bundle's folder.

        Raises:
            ConfigError: none was given, and none was fetched.
        """
        if self.bundle is None:
            raise ConfigError("missing BUNDLE (or HAT_DEVICE_BUNDLE, or bundle in --config)")
        return self.bundle
