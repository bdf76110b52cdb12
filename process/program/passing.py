"""Whether what ended a start may be over by itself."""

import errno
import socket
import ssl

from process.errors import UserError

_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EADDRINUSE", "EADDRNOTAVAIL", "EAGAIN", "EBUSY", "EDQUOT", "EIO", "EMFILE", "ENFILE"),
        *("ENOBUFS", "ENOMEM", "ENOSPC", "ESTALE", "ETIMEDOUT", "ETXTBSY"),
    )
    if hasattr(errno, name)
)
"""What other programs, disks and networks decide, and may decide otherwise the next time."""


def passes(error: UserError) -> bool:
    """Whether what an error tells of may be over without anybody's doing.

    Where the system has caused it, that decides: a port in use passes, a file that is missing not.
    """
    match error.__cause__:
        case socket.gaierror():
            # Names are found once there is a network.
            return True
        case ssl.SSLError():
            # Its numbers are OpenSSL's: a key of another certificate has that of ESTALE.
            return error.may_pass
        case OSError(errno=int(number)):
            return number in _PASSING
        case UserError() as cause:
            return error.may_pass or passes(cause)
        case _:
            return error.may_pass
