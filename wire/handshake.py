"""Hello and Welcome: who may talk, in which version, about which model (rules W10 to W14)."""

from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Final

from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import RowLimits
from wire.messages import Ability, Codec, Hello, Join, Welcome

LINK_PATH: Final = "/v1/link"
"""Where a cloud takes a device's WebSocket (rule W1)."""

BUNDLE_PATH: Final = "/v1/bundle"
"""Where a cloud gives a device its bundle, if it serves one."""

VERSION: Final = 1
"""The version this package speaks best."""

MIN_VERSION: Final = 1
"""The oldest version this package still speaks."""


_WITH_TABLES: Final = sum(
    1 << codec for codec in (Codec.EXACT, Codec.PADDED, Codec.INT8, Codec.INT6)
)


@dataclass(frozen=True, slots=True)
class CloudTerms:
    """What a cloud serves and asks for. An empty `credential` lets every device in."""

    fingerprint: bytes
    first_layer: int
    num_layers: int
    credential: bytes = field(repr=False)
    rows: RowLimits
    max_context_tokens: int
    credit_limit_tokens: int
    session_ttl_s: float
    middle_fingerprint: bytes = b""
    """Of the middle layers alone; empty where only whole models are compared."""
    tables: bytes = b""
    """What codecs of the set in `rows` need; sent to devices that speak one of them."""


def negotiate_version(min_version: int, max_version: int) -> int:
    """The highest version that both this package and the peer speak (rule W10).

    Raises:
        RemoteProtocolError: UNSUPPORTED_VERSION when there is none.
    """
    version = min(VERSION, max_version)
    if version < max(MIN_VERSION, min_version):
        ours, theirs = f"{MIN_VERSION}..{VERSION}", f"{min_version}..{max_version}"
        reason = f"expected a version of {ours}, got {theirs}"
        raise RemoteProtocolError(FaultCode.UNSUPPORTED_VERSION, reason)
    return version


def answer_hello(
    hello: Hello, terms: CloudTerms, lane_key: bytes = b"", stranger: str | None = None
) -> Welcome:
    """The Welcome for a device that fits; the checks go in the order of rules W10 to W13.

    It holds the `lane_key` if both sides know lanes (rule W44). `stranger` says why the device may
    not come, where it is not its credential alone that decides; it is empty where it may.

    Raises:
        RemoteProtocolError: UNSUPPORTED_VERSION, BAD_CREDENTIAL, FINGERPRINT_MISMATCH or
            SHAPE_MISMATCH: the first that applies.
    """
    version = negotiate_version(hello.min_version, hello.max_version)
    _check_credential(hello.credential, terms.credential, stranger)
    _check_model(hello, terms)
    rows = terms.rows
    codecs = hello.codecs & rows.codecs
    if not codecs >> Codec.RAW & 1:
        ours, theirs = f"{rows.codecs:#b}", f"{hello.codecs:#b}"
        raise _mismatch(f"expected a codec of the set {ours}, got {theirs}")
    return Welcome(
        version=version,
        dtype=rows.dtype,
        codecs=codecs,
        max_context_tokens=terms.max_context_tokens,
        max_frame_tokens=rows.max_frame_tokens,
        credit_limit_tokens=terms.credit_limit_tokens,
        session_ttl_s=terms.session_ttl_s,
        tables=terms.tables if codecs & _WITH_TABLES else b"",
        lane_key=lane_key if codecs >> Ability.LANES & 1 else b"",
    )


def check_join(join: Join, terms: CloudTerms, stranger: str | None = None) -> None:
    """Let a further socket in that knows the secret; whose it is, its key says (rule W44).

    `stranger` is as in `answer_hello`.

    Raises:
        RemoteProtocolError: UNSUPPORTED_VERSION or BAD_CREDENTIAL.
    """
    negotiate_version(join.version, join.version)
    _check_credential(join.credential, terms.credential, stranger)


def check_welcome(hello: Hello, welcome: Welcome) -> RowLimits:
    """The shape of the connection's rows, when the Welcome answers the Hello (rule W14).

    Raises:
        RemoteProtocolError: the cloud chose something that the device did not offer.
    """
    if not hello.min_version <= welcome.version <= hello.max_version:
        offered = f"{hello.min_version}..{hello.max_version}"
        reason = f"expected a version of {offered}, got {welcome.version}"
        raise RemoteProtocolError(FaultCode.UNSUPPORTED_VERSION, reason)
    if not hello.dtypes >> welcome.dtype & 1:
        raise _mismatch(f"expected a dtype of {hello.dtypes:#b}, got {welcome.dtype.name}")
    if not welcome.codecs >> Codec.RAW & 1 or welcome.codecs & ~hello.codecs:
        raise _mismatch(f"expected codecs of {hello.codecs:#b}, got {welcome.codecs:#b}")
    if bool(welcome.lane_key) is not bool(welcome.codecs >> Ability.LANES & 1):
        raise _mismatch("expected a lane key where lanes were agreed, and only there")
    return RowLimits(hello.hidden_size, welcome.dtype, welcome.max_frame_tokens, welcome.codecs)


def _check_credential(got: bytes, expected: bytes, stranger: str | None) -> None:
    if stranger is None and expected and not compare_digest(got, expected):
        stranger = "expected the shared secret"
    if stranger:
        raise RemoteProtocolError(FaultCode.BAD_CREDENTIAL, stranger)


def _check_model(hello: Hello, terms: CloudTerms) -> None:
    names_middle = bool(hello.codecs >> Ability.MIDDLE & 1 and terms.middle_fingerprint)
    if names_middle:
        # Other layers always have another fingerprint, which would say less.
        _check_shape(hello, terms)
    expected = terms.middle_fingerprint if names_middle else terms.fingerprint
    if hello.fingerprint != expected:
        what = "middle layers" if names_middle else "weights"
        ours, theirs = expected.hex()[:12], hello.fingerprint.hex()[:12]
        reason = f"expected {what} with fingerprint {ours}.., got {theirs}.."
        raise RemoteProtocolError(FaultCode.FINGERPRINT_MISMATCH, reason)
    _check_shape(hello, terms)


def _check_shape(hello: Hello, terms: CloudTerms) -> None:
    ours_first, theirs_first = terms.first_layer, hello.first_layer
    if (theirs_first, hello.num_layers) != (ours_first, terms.num_layers):
        served = f"[{ours_first}, {ours_first + terms.num_layers})"
        asked = f"[{theirs_first}, {theirs_first + hello.num_layers})"
        raise _mismatch(f"expected middle layers {served}, got {asked}")
    if hello.hidden_size != terms.rows.hidden_size:
        raise _mismatch(f"expected hidden {terms.rows.hidden_size}, got {hello.hidden_size}")
    if not hello.dtypes >> terms.rows.dtype & 1:
        raise _mismatch(f"expected dtype {terms.rows.dtype.name}, got the set {hello.dtypes:#b}")


def _mismatch(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(FaultCode.SHAPE_MISMATCH, reason)
