"""The core's settings, from what the operator said, the bundle holds and the engine offers."""

from cloud_server.config import CloudConfig
from cloud_server.core.config import CoreConfig
from cloud_server.daemon.reception import socket_limits
from cloud_server.engines.engine import MiddleEngine, steps_in_flight
from cloud_server.number_format import FORMATS, wire_format
from submodels.bundle.coding_file import ChannelScales
from submodels.bundle.fingerprint import middle_fingerprint_of
from submodels.manifest import Manifest
from wire.coding.lossy import LOSSY_ABILITIES, kept_channels
from wire.coding.row_codecs import EXACT_CODECS
from wire.coding.tables import Centres, centres_of, write_sections
from wire.limits import ITEM_BYTES
from wire.messages import Codec, Dtype

_MAX_FRAME_BYTES = 16 << 20
"""A frame holds up everything behind it on its socket, and each device may have a few in memory."""

_WINDOW_FRAMES = 4
"""Frames a device may have outstanding: one runs, one waits, two are on a link with a long way."""

_LANE_SHARE = 2
"""Of the sockets that one address may have, the part that may be lanes is one in so many: an
address that has all of the lanes keeps room for other devices behind it."""

_VERIFY_TOKENS = 32


def verify_tokens(config: CloudConfig) -> int:
    """The most rows of a frame that goes first; two such frames fit a step."""
    return max(1, min(_VERIFY_TOKENS, config.step_budget_tokens // 2))


def wire_dtype(config: CloudConfig, manifest: Manifest) -> Dtype:
    """The number format in which this cloud's rows cross the link."""
    return wire_format(config.wire_dtype, config.dtype, FORMATS[manifest.dtype])


def core_settings(
    config: CloudConfig,
    manifest: Manifest,
    engine: MiddleEngine,
    scales: ChannelScales,
    host_tokens: int = 0,
) -> CoreConfig:
    """What the core is to be told; `host_tokens` is how much of idle sessions fits host memory."""
    dtype = wire_dtype(config, manifest)
    row_bytes = engine.hidden_size * ITEM_BYTES[dtype]
    affordable_tokens = max(1, _MAX_FRAME_BYTES // row_bytes)
    max_frame_tokens = min(config.max_frame_tokens, affordable_tokens, engine.max_context_tokens)
    return CoreConfig(
        fingerprint=bytes.fromhex(manifest.fingerprint),
        middle_fingerprint=bytes.fromhex(middle_fingerprint_of(manifest)),
        first_layer=manifest.num_input_layers,
        num_layers=manifest.num_middle_layers,
        hidden_size=engine.hidden_size,
        dtype=dtype,
        capacity_tokens=engine.capacity_tokens,
        max_context_tokens=engine.max_context_tokens,
        block_tokens=engine.block_tokens,
        host_tokens=host_tokens,
        credential=(config.secret or "").encode(),
        takes_certificates=config.tls_client_ca is not None,
        max_sessions=config.max_sessions,
        max_connections=config.max_connections,
        max_lanes=socket_limits(config).max_per_address // _LANE_SHARE,
        max_frame_tokens=max_frame_tokens,
        credit_window_tokens=_WINDOW_FRAMES * max_frame_tokens,
        identity_share=config.identity_share,
        step_budget_tokens=max(2, config.step_budget_tokens),
        target_step_s=config.target_step_s,
        steps_in_flight=steps_in_flight(engine),
        takes_taps=engine.takes_taps,
        takes_traces=True,
        codecs=_codecs(config),
        tables=_tables(scales, dtype),
        verify_tokens=verify_tokens(config),
        session_ttl_s=config.session_ttl_s,
        queue_deadline_s=config.queue_deadline_s,
    )


def _codecs(config: CloudConfig) -> int:
    exact = 0 if config.wire_codec == "raw" else EXACT_CODECS
    return 1 << Codec.RAW | exact | (LOSSY_ABILITIES if config.allow_lossy_codecs else 0)


def _tables(scales: ChannelScales, dtype: Dtype) -> bytes:
    """What codecs need to know of the model; nothing where the split has not measured it."""
    if not scales.up or not scales.down:
        return b""
    centres = Centres(centres_of(scales.up, dtype), centres_of(scales.down, dtype))
    kept = kept_channels(scales.up_largest, scales.down_largest)
    return centres.tables + write_sections(kept.sections)
