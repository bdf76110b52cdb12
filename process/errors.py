"""What whoever runs a program can mend, as opposed to bugs."""

import errno
import os
import socket

_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EADDRINUSE", "EADDRNOTAVAIL", "EAGAIN", "EBUSY", "EDQUOT", "EIO", "EMFILE", "ENFILE"),
        *("ENOBUFS", "ENOMEM", "ENOSPC", "ESTALE", "ETIMEDOUT", "ETXTBSY"),
    )
    if hasattr(errno, name)
)
"""What other programs, disks and networks decide, and may decide otherwise the next time."""


class UserError(Exception):
    """Settings, files, the machine or the other side are wrong; the message is one line."""

    may_pass = False
    """Whether the same command may work the next time, though nobody changed anything here."""


class StartError(UserError):
    """A program cannot start as it was set up, and would not the next time."""


class PassingError(StartError):
    """A program cannot start now; what is in its way may be gone the next time."""

    may_pass = True


class ConfigError(UserError):
    """A setting or an argument is wrong; the message names it."""


def passes(error: UserError) -> bool:
    """Whether what an error tells of may be over without anybody's doing.

    Where the system has caused it, that decides: a port in use passes, a file that is missing not.
    """
    match error.__cause__:
        case socket.gaierror():
            # Names are found once there is a network.
            return True
        case OSError(errno=int(number)):
            return number in _PASSING
        case UserError() as cause:
            return error.may_pass or passes(cause)
        case _:
            return error.may_pass


def system_reason(error: OSError) -> str:
    """The system's own words; event loops put a description of the call in their place."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return error.strerror or str(error)
