"""What a command reports as one line; what is no `UserError` is a bug and shows its trace."""

from process.errors import UserError


class CommandError(UserError):
    """The command cannot go on. Exit code 1."""


class ConfigError(CommandError):
    """The user's settings are wrong; the message names the setting. Exit code 2."""
