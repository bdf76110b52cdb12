"""What whoever runs a program can mend, as opposed to bugs."""

import os


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


def reading_reason(error: OSError | UnicodeError) -> str:
    """Why a text file cannot be read."""
    return system_reason(error) if isinstance(error, OSError) else "expected UTF-8"


def system_reason(error: OSError) -> str:
    """The system's own words; event loops put a description of the call in their place."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return error.strerror or str(error)


def shown(error: Exception) -> str:
    """The words of an error that quotes what somebody sent or wrote, on one line and printable."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in str(error)
    )
