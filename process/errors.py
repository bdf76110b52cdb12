"""What whoever runs a program can mend, as opposed to bugs."""

import os


class UserError(Exception):
    """Settings, files, the machine or the other side are wrong; the message is one line."""


class StartError(UserError):
    """A program cannot start as it was set up."""


class ConfigError(UserError):
    """A setting or an argument is wrong; the message names it."""


def system_reason(error: OSError) -> str:
    """The system's own words; event loops put a description of the call in their place."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return error.strerror or str(error)
