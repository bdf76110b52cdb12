"""Secrets come from files and variables, never from the command line, where `ps` shows them."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from process.errors import ConfigError, system_reason

MAX_SECRET_CHARS = 4096


def read_secret(path: Path, source: str) -> str:
    """The secret in a file, without the newline at its end.

    Raises:
        ConfigError: the file cannot be read, or holds no usable secret.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_CHARS + 3)
    except OSError as error:
        raise ConfigError(f"{source}: cannot read {path}: {system_reason(error)}") from error
    return usable_secret(data.decode("ascii", errors="replace").rstrip("\r\n"), f"{source} {path}")


def endpoint_key(file: str | None, environ: Mapping[str, str]) -> str | None:
    """The key of an endpoint that a command asks: from the file of --api-key-file, or HAT_API_KEY.

    Raises:
        ConfigError: as `read_secret` does.
    """
    if file is not None:
        return read_secret(Path(file).expanduser(), "--api-key-file")
    if environ.get("HAT_API_KEY"):
        return usable_secret(environ["HAT_API_KEY"], "HAT_API_KEY")
    return None


def readable_note(path: Path) -> str | None:
    """A warning where others than its reader may read a file with a secret.

    On Windows modes say nothing of that.
    """
    if not hasattr(os, "geteuid"):
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    who = who_may_read(status.st_mode, is_own=status.st_uid == os.geteuid())
    return None if who is None else f"{path} can be read by {who}: chmod 600 {path}"


def who_may_read(mode: int, *, is_own: bool) -> str | None:
    """Who may read a file of this mode besides the program that does, if anybody.

    The group's right alone is not held against a file of somebody else: that is how a
    supervisor lets a user in whom it did not make the owner.
    """
    if mode & stat.S_IROTH:
        return "every user of this machine"
    return "its group" if mode & stat.S_IRGRP and is_own else None


def usable_secret(text: str, source: str) -> str:
    """The secret itself, once it is known to fit in an HTTP header.

    Raises:
        ConfigError: empty, too long, or with characters other than visible ASCII; the message
            does not show it.
    """
    if not text:
        raise ConfigError(f"{source}: expected a secret, found nothing")
    if len(text) > MAX_SECRET_CHARS:
        raise ConfigError(f"{source}: expected at most {MAX_SECRET_CHARS} characters")
    if not all("!" <= character <= "~" for character in text):
        raise ConfigError(f"{source}: expected one line of visible ASCII characters, no spaces")
    return text
