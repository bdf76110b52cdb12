"""What a setting is for and which values it takes, said at the field that holds it.

A configuration is a dataclass whose fields are made here: `port: int = tcp_port(80, "of it")`.
Command line, environment, files and documents are derived from that.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")

_ABOUT = "about"
_MAX_TOKENS = 1 << 24
_MAX_COUNT = 1 << 16
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class About:
    """What neither the type nor the default of a field says."""

    help: str
    minimum: float | None = None
    """The least and the most value are both allowed."""
    maximum: float | None = None
    tokens: bool = False
    """A count that may be written 32k."""
    secret: bool = False
    """Never a value on the command line: a file is named there."""
    shared_variable: str | None = None
    """The environment variable that holds it for every program."""
    argument: bool = False
    """Given without a flag."""
    metavar: str | None = None
    """What stands behind the flag in the help, in place of the type."""
    check: Callable[[Any], str | None] | None = None
    """Returns what a value should have been, or None."""
    auto: str | None = None
    """What the value `auto` leads to, for --print-config."""
    engine: str | None = None
    """The only engine that has this setting."""


def abouts(config: type) -> dict[str, About]:
    """What is said of each field of a configuration.

    Raises:
        TypeError: nothing is.
    """
    for each in fields(config):
        if _ABOUT not in each.metadata:
            raise TypeError(f"{config.__name__}.{each.name}: nothing says what it is for")
    return {each.name: each.metadata[_ABOUT] for each in fields(config)}


def about(text: str, *more: Any, **rest: Any) -> Mapping[str, About]:
    """The metadata of a field without a default."""
    return {_ABOUT: About(text, *more, **rest)}


def setting(default: T, text: str, *more: Any, **rest: Any) -> T:
    """A field with a default; all else is `About`'s. A secret does not show in a repr."""
    said = about(text, *more, **rest)
    made: T = field(default=default, repr=not said[_ABOUT].secret, metadata=said)
    return made


def count(default: T, text: str, minimum: float = 1, **rest: Any) -> T:
    """A number of things."""
    return setting(default, text, minimum, _MAX_COUNT, **rest)


def tokens(default: T, text: str, minimum: float = 1, maximum: float = _MAX_TOKENS) -> T:
    """A number of tokens."""
    return setting(default, text, minimum, maximum, tokens=True)


def seconds(default: T, text: str, minimum: float = 0, maximum: float = _DAY_S) -> T:
    """A time."""
    return setting(default, text, minimum, maximum)


def tcp_port(default: T, what: str, **rest: Any) -> T:
    """A port."""
    return setting(default, f"Port {what}.", 1, 65535, **rest)


def some_text(default: T, text: str, **rest: Any) -> T:
    """A text that is not empty."""
    return setting(default, text, check=_not_empty, **rest)


def hash_every_file() -> bool:
    """Whether a bundle is hashed at every start."""
    text = "Hash every file of the bundle; left out: large ones once for each version of them."
    return setting(False, text)


def bundle_key() -> str | None:
    """Whose bundles are taken."""
    return setting(
        None,
        "Public key that must have signed the bundle (`hat sign`), whose files are then hashed at "
        "every start; left out: no signature is asked for.",
        check=_ed25519,
        metavar="ed25519:KEY",
    )


def engine_threads() -> int | None:
    """Of the engine."""
    text = "Threads of the engine; left out: one fewer than there are cores."
    return setting(None, text, 1, 1024)


def link_secret() -> str | None:
    """Between device and cloud."""
    text = (
        "File with the secret that the device shows to the cloud; without one, any device may in."
    )
    return setting(None, text, secret=True, shared_variable="HAT_SECRET")


def congestion_control() -> str | None:
    """Of the connections between device and cloud."""
    return setting(
        None,
        "TCP congestion control of the link, such as bbr; left out: the kernel's own choice.",
        check=_algorithm,
    )


def drain_timeout() -> float:
    """How long a program may take to end."""
    return seconds(30.0, "Seconds that running work may take after SIGTERM or Ctrl-C.")


def least_level(default: T) -> T:
    """Of the log."""
    return setting(default, "The least important messages that are shown.")


def line_format(default: T) -> T:
    """Of the log."""
    return setting(default, "Log lines for people (text) or for programs (json).")


def _algorithm(value: str) -> str | None:
    is_name = re.fullmatch(r"[A-Za-z0-9_-]{1,15}", value) is not None
    return None if is_name else "a name of up to 15 letters, digits, - and _, such as bbr"


def _ed25519(value: str) -> str | None:
    is_key = re.fullmatch(r"ed25519:[A-Za-z0-9+/]{43}=", value) is not None
    return None if is_key else "a key as `hat sign` prints it: ed25519: and 44 letters of base64"


def _not_empty(value: str) -> str | None:
    return None if value.strip() else "some text"
