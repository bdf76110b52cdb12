"""What a command reports as one line; anything else that is raised is a bug and shows its trace."""


class CommandError(Exception):
    """The command cannot go on; the message is one line for the user. Exit code 1."""


class ConfigError(CommandError):
    """The user's settings are wrong; the message names the setting. Exit code 2."""
