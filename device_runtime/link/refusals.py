"""Why there is no link to the cloud, in words that say what to do."""

import os
import ssl
from dataclasses import dataclass

import aiohttp

from device_runtime.link.connection import LostError
from device_runtime.link.tunnel import TunnelError
from process.tls.pinned import WrongKeyError
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Fault


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failed connection. A permanent one will not heal by itself, so retries are rare.

    The reason is for users: it holds no secret, no name of a class, and none of a library's words.
    """

    reason: str
    is_permanent: bool = False
    is_draining: bool = False
    retry_after_s: float = 0.0
    is_other_model: bool = False
    """The device's bundle is not for the layers that the cloud has."""
    is_told: bool = False
    """The cloud is there and says itself that this device is not let in, or not now."""


_ADVICE = {
    FaultCode.BAD_CREDENTIAL: (
        "start both sides with the same secret, or ask whoever runs the cloud for a token"
    ),
    FaultCode.FINGERPRINT_MISMATCH: (
        "use the device and cloud bundles of one and the same split, or ends made for that middle "
        "by hat split --middle-of"
    ),
    FaultCode.SHAPE_MISMATCH: "use the device and cloud bundles of one and the same split",
    FaultCode.UNSUPPORTED_VERSION: "install the same version on both sides",
}

_OTHER_MODEL = (FaultCode.FINGERPRINT_MISMATCH, FaultCode.SHAPE_MISMATCH)

_WHAT = {
    FaultCode.BAD_CREDENTIAL: "refused this device's secret or token",
    FaultCode.FINGERPRINT_MISMATCH: "holds other middle layers than this device's bundle is for",
    FaultCode.SHAPE_MISMATCH: "holds other layers than this device's bundle expects",
    FaultCode.UNSUPPORTED_VERSION: "speaks another version of the protocol",
    FaultCode.DRAINING: "is shutting down",
    FaultCode.CAPACITY: "is full",
    FaultCode.TOO_MANY_SESSIONS: "serves as many devices as it may",
    FaultCode.QUOTA: "serves no more devices of this name",
}


_STAYS = (FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS, FaultCode.QUOTA)
"""Said by a cloud that serves others meanwhile; one that drains or fails is on its way out."""

_UNTRUSTED = (
    "shows a certificate this device does not trust; give its CA with --cloud-ca, or its pin (the "
    "cloud prints it) with --cloud-pin"
)

# Source: OpenSSL's x509_vfy.h, X509_V_ERR_*; 0 is a check that named none.
_CERTIFICATES = dict.fromkeys((0, 2, 18, 19, 20, 21, 27), _UNTRUSTED) | {
    9: "shows a certificate that is not valid yet; is the clock of this device right?",
    10: "shows a certificate that has expired; renew it there, or set this device's clock right",
    23: "shows a certificate that was revoked",
    62: "shows a certificate for another host name; use one that is in it",
    64: "shows a certificate for another address; use one that is in it",
}

_NO_TLS = "does not speak TLS; is it ws:// instead of wss://?"

_ENDED_TLS = "does not go on with TLS"
"""By an alert that says nothing which could be mended; whoever sends one speaks TLS."""

_TLS = {
    "UNEXPECTED_EOF_WHILE_READING": "closed the connection before TLS was agreed on",
    "UNSUPPORTED_PROTOCOL": "speaks another version of TLS than this device",
    "TLSV1_ALERT_PROTOCOL_VERSION": "speaks another version of TLS than this device",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "agrees on no way to encrypt with this device",
    "TLSV1_ALERT_UNKNOWN_CA": "does not know the authority of this device's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "finds this device's certificate expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "does not take this device's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "does not take this device's certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "finds this device's certificate revoked",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": (
        "finds that this device's certificate is not one for clients (its extended key usage)"
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants a certificate from this device, which has none",
    "TLSV1_UNRECOGNIZED_NAME": "knows no host of this name",
    "TLSV1_ALERT_INTERNAL_ERROR": "failed while TLS was agreed on",
}


def of_fault(fault: Fault, where: str) -> Refusal:
    """The cloud said no to the whole connection."""
    what = _WHAT.get(fault.code, f"refused with {fault.code.name}")
    details = f" ({fault.message})" if fault.message else ""
    if (advice := _ADVICE.get(fault.code)) is not None:
        return Refusal(
            f"the cloud at {where} {what}{details}; {advice}",
            is_permanent=True,
            is_other_model=fault.code in _OTHER_MODEL,
            is_told=True,
        )
    return Refusal(
        f"the cloud at {where} {what}{details}",
        is_draining=fault.code is FaultCode.DRAINING,
        retry_after_s=fault.retry_after_s,
        is_told=fault.code in _STAYS,
    )


def of_error(error: BaseException, where: str) -> Refusal:
    """The socket could not be opened or did not last."""
    match error:
        case LostError():
            return Refusal(f"lost the cloud at {where}: {error}")
        case RemoteProtocolError():
            return Refusal(f"the cloud at {where} broke the protocol: {error}")
        case TunnelError():
            return Refusal(f"cannot reach the cloud at {where}: {error}")
        case aiohttp.ClientConnectorCertificateError():
            return _of_certificate(error.certificate_error, where)
        case ssl.SSLCertVerificationError():
            return _of_certificate(error, where)
        case aiohttp.ClientConnectorSSLError():
            return _of_tls(error.os_error, where)
        case ssl.SSLError():
            return _of_tls(error, where)
        case aiohttp.ClientResponseError():
            return _of_answer(error, where)
        case TimeoutError():
            return Refusal(f"the cloud at {where} does not answer")
        case _:
            return _of_network(error, where)


def speaks_tls(where: str) -> Refusal:
    """A ws:// address leads to a cloud that wants wss://."""
    return Refusal(f"the cloud at {where} speaks TLS; use wss:// instead of ws://", True)


def _of_certificate(error: BaseException, where: str) -> Refusal:
    """Why a certificate was not taken; only an unknown authority is healed by naming it."""
    if isinstance(error, WrongKeyError):
        return _of_key(error, where)
    what = _CERTIFICATES.get(getattr(error, "verify_code", 0))
    if what is None:
        words = getattr(error, "verify_message", "") or "it does not pass this device's checks"
        what = f"shows a certificate that cannot be used: {words}"
    return Refusal(f"the cloud at {where} {what}", is_permanent=True)


def _of_key(error: WrongKeyError, where: str) -> Refusal:
    """Whoever is there holds another key; only its operator can tell whether that is right."""
    what = f"has the key {error.found or 'of no known kind'}, which is not that of --cloud-pin"
    advice = "unless its operator says that it has this one now, somebody else answers"
    return Refusal(f"the cloud at {where} {what}; {advice}", is_permanent=True)


def _of_tls(error: BaseException, where: str) -> Refusal:
    reason = getattr(error, "reason", None) or ""
    what = _TLS.get(reason, _ENDED_TLS if "ALERT" in reason else _NO_TLS)
    return Refusal(f"the cloud at {where} {what}", is_permanent=True)


def _of_answer(error: aiohttp.ClientResponseError, where: str) -> Refusal:
    """Something answered, and it was no upgrade to a WebSocket."""
    if error.status == 503:
        what = "takes no devices now: it loads its model, or is about to stop"
        return Refusal(f"the cloud at {where} {what}")
    what = f"answers HTTP {error.status} instead of opening a link"
    if not isinstance(error, aiohttp.WSServerHandshakeError) or error.status == 101:
        what = "does not answer as a WebSocket does"
    is_permanent = error.status in (400, 404, 426)
    return Refusal(f"{where} {what}; is it a hat cloud?", is_permanent)


def _of_network(error: BaseException, where: str) -> Refusal:
    match error:
        case OSError(__cause__=ssl.SSLError(reason=str(reason)) as alert) if (
            reason in _TLS or "ALERT" in reason
        ):
            # In TLS 1.3 a server finds out about a client's certificate behind the handshake.
            return _of_tls(alert, where)
        case OSError(__cause__=ssl.SSLError()):
            # Its number is one of TLS: as one of the system's it would say something else.
            return Refusal(f"lost the cloud at {where}: TLS broke off")
        case aiohttp.ClientConnectorDNSError():
            return Refusal(f"cannot find the host of the cloud at {where}; is its name right?")
        case aiohttp.ClientConnectorError():
            why = _system_words(error.os_error)
            return Refusal(f"cannot reach the cloud at {where}: {why}; is it running there?")
        case aiohttp.ServerDisconnectedError():
            return Refusal(f"lost the cloud at {where}: it closed the connection")
        case OSError():
            return Refusal(f"lost the cloud at {where}: {_system_words(error)}")
        case _:
            return Refusal(f"lost the cloud at {where}: the connection broke")


def _system_words(error: OSError) -> str:
    """The system's own words; asyncio puts a description of the call in their place."""
    words = error.strerror
    if isinstance(words, str) and words.replace(" ", "").isalpha():
        return words.lower()
    if isinstance(error.errno, int) and error.errno > 0:
        return os.strerror(error.errno).lower()
    return "the connection broke"


def retry_delay_s(attempt: int, draw: float, min_s: float, max_s: float) -> float:
    """Seconds before reconnection number `attempt` (from 0): doubling, half of it by chance.

    `draw` is uniform in [0, 1); it keeps devices that lost the same cloud from coming back at once.
    """
    ceiling = min(max_s, min_s * 2.0 ** min(attempt, 32))
    return ceiling * (0.5 + 0.5 * draw)
