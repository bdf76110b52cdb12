"""Why there is no link to the cloud, in words that say what to do."""

import ssl
from dataclasses import dataclass

import aiohttp

from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Fault


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failed connection. A permanent one will not heal by itself, so retries are rare."""

    reason: str
    is_permanent: bool = False
    is_draining: bool = False
    retry_after_s: float = 0.0


_ADVICE = {
    FaultCode.BAD_CREDENTIAL: "start both sides with the same secret",
    FaultCode.FINGERPRINT_MISMATCH: "use the device and cloud bundles of one and the same split",
    FaultCode.SHAPE_MISMATCH: "use the device and cloud bundles of one and the same split",
    FaultCode.UNSUPPORTED_VERSION: "install the same version on both sides",
}

_WHAT = {
    FaultCode.BAD_CREDENTIAL: "refused this device's secret",
    FaultCode.FINGERPRINT_MISMATCH: "holds another model than this device's bundle",
    FaultCode.SHAPE_MISMATCH: "holds other layers than this device's bundle expects",
    FaultCode.UNSUPPORTED_VERSION: "speaks another version of the protocol",
    FaultCode.DRAINING: "is shutting down",
    FaultCode.CAPACITY: "is full",
    FaultCode.TOO_MANY_SESSIONS: "serves as many devices as it may",
}


def heals_by_replay(code: FaultCode) -> bool:
    """Whether a session that the cloud ended for this can be opened again at once."""
    return code in (FaultCode.UNKNOWN_SESSION, FaultCode.POSITION_MISMATCH)


def of_fault(fault: Fault, where: str) -> Refusal:
    """The cloud said no to the whole connection."""
    what = _WHAT.get(fault.code, f"refused with {fault.code.name}")
    details = f" ({fault.message})" if fault.message else ""
    if (advice := _ADVICE.get(fault.code)) is not None:
        return Refusal(f"the cloud at {where} {what}{details}; {advice}", is_permanent=True)
    return Refusal(
        f"the cloud at {where} {what}{details}",
        is_draining=fault.code is FaultCode.DRAINING,
        retry_after_s=fault.retry_after_s,
    )


def of_error(error: Exception, where: str) -> Refusal:
    """The socket could not be opened or did not last."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            what = "shows a certificate this device does not trust; give its CA with --cloud-ca"
            return Refusal(f"the cloud at {where} {what}", is_permanent=True)
        case aiohttp.ClientConnectorSSLError():
            what = "does not speak TLS; is it ws:// instead of wss://?"
            return Refusal(f"the cloud at {where} {what}", is_permanent=True)
        case aiohttp.WSServerHandshakeError(status=503):
            what = "takes no devices now: it loads its model, or is about to stop"
            return Refusal(f"the cloud at {where} {what}")
        case aiohttp.WSServerHandshakeError():
            what = f"answers HTTP {error.status} instead of opening a link; is it a hat cloud?"
            return Refusal(f"{where} {what}", is_permanent=error.status in (400, 404, 426))
        case RemoteProtocolError():
            return Refusal(f"the cloud at {where} broke the protocol: {error}")
        case TimeoutError():
            return Refusal(f"the cloud at {where} does not answer")
        case aiohttp.ClientConnectorError():
            why = error.os_error.strerror or type(error.os_error).__name__
            return Refusal(f"cannot reach the cloud at {where}: {why}; is it running there?")
        case _:
            return Refusal(f"lost the cloud at {where}: {type(error).__name__}")


def retry_delay_s(attempt: int, draw: float, min_s: float, max_s: float) -> float:
    """Seconds before reconnection number `attempt` (from 0): doubling, half of it by chance.

    `draw` is uniform in [0, 1); it keeps devices that lost the same cloud from coming back at once.
    """
    ceiling = min(max_s, min_s * 2.0 ** min(attempt, 32))
    return ceiling * (0.5 + 0.5 * draw)
