"""Secrets come from files and variables, never from the command line, where `ps` shows them."""

import os
from pathlib import Path

from process.errors import ConfigError
from process.program.exposure import file_notice

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
        raise ConfigError(f"{source}: cannot read {path}: {error.strerror}") from error
    return usable_secret(data.decode("ascii", errors="replace").rstrip("\r\n"), f"{source} {path}")


def readable_note(path: Path) -> str | None:
    """Who else may read a file with a secret, if anybody."""
    try:
        status = path.stat()
    except OSError:
        return None
    user = os.geteuid() if hasattr(os, "geteuid") else status.st_uid
    notice = file_notice(str(path), status.st_mode, status.st_uid, user)
    return None if notice is None else notice.text


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
