"""Errors of the protocol: the type says whose fault it is."""

from enum import IntEnum


class FaultCode(IntEnum):
    """Why the cloud refused something; the numbers are part of the protocol."""

    BAD_FRAME = 1
    UNSUPPORTED_VERSION = 2
    BAD_CREDENTIAL = 3
    FINGERPRINT_MISMATCH = 4
    SHAPE_MISMATCH = 5
    UNKNOWN_SESSION = 6
    POSITION_MISMATCH = 7
    CREDIT_EXCEEDED = 8
    CONTEXT_EXCEEDED = 9
    CAPACITY = 10
    TOO_MANY_SESSIONS = 11
    DEADLINE_EXCEEDED = 12
    DRAINING = 13
    INTERNAL = 14
    QUOTA = 15
    """What the device's name may have is used up (rule W51); only to who knows the code."""


class ProtocolError(Exception):
    """A rule of the wire was broken; `code` says which."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


class LocalProtocolError(ProtocolError):
    """This side was about to break a rule; a bug here."""


class RemoteProtocolError(ProtocolError):
    """The other side broke a rule; its frame is refused."""
