"""What keeps the daemon from starting."""


class ConfigError(Exception):
    """The operator's settings, bundle or machine are wrong; the message is one line for them."""
