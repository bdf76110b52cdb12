"""`hat token`: the names that may come to a cloud, with a token each."""

import base64
import errno
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from cloud_server.core.names.quota import NO_QUOTA, Quota
from cloud_server.core.names.tokens import (
    MOST_SECONDS,
    TOKEN_BYTES,
    TOKEN_PREFIX,
    Entry,
    Tokens,
    TokensError,
    check_name,
    day_of,
    digest_of,
)
from cloud_server.token_file import alone_with, default_tokens_file, read_tokens, write_tokens
from hat.errors import CommandError, need_unix
from hat.settings.setting import token_count
from process.errors import ConfigError, system_reason

F = TypeVar("F", bound=Callable[..., Any])

_VARIABLE = "HAT_CLOUD_TOKENS_FILE"
_UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_BOUNDS = tuple(Quota.__dataclass_fields__)
_ENDED_S = 2

_EPILOG = """
\b
Examples:
  hat token add phone > token                    # chmod 600, and `hat device --secret-file token`
  hat token add lab --quota sessions=8,tokens_per_day=1m --expires 90d
  hat token change lab --quota sessions=16,tokens_per_day=0
  hat token list
  hat token revoke lab

The file has names, quotas and the hashes of tokens; a token itself is printed once and is nowhere.
A cloud that runs reads the file again when it has changed, so nothing is to be restarted.
"""


@click.group(epilog=_EPILOG)
def token() -> None:
    """Say who may come to a cloud: a name, a token, and what it may have."""


def _file_option(command: F) -> F:
    return click.option(
        "--tokens-file",
        metavar="FILE",
        help=f"The file, as `hat cloud` takes it; also {_VARIABLE}.  "
        "[default: hat/tokens.json in the user's configuration folder]",
    )(command)


def _quota_option(command: F) -> F:
    return click.option(
        "--quota",
        "quotas",
        multiple=True,
        metavar="BOUND=N,...",
        help=f"What the name may have over all of its devices: {', '.join(_BOUNDS)}.",
    )(command)


def _expires_option(command: F) -> F:
    return click.option(
        "--expires",
        metavar="WHEN",
        help="How long it lasts (90d, 12h, 30m, 4w) or until which day of UTC (2027-01-31).",
    )(command)


@token.command(epilog=_EPILOG)
@click.argument("name")
@_quota_option
@_expires_option
@click.option(
    "--certificate",
    is_flag=True,
    help="Make no token: devices show a client certificate of this name.",
)
@_file_option
def add(
    name: str,
    quotas: tuple[str, ...],
    expires: str | None,
    certificate: bool,
    tokens_file: str | None,
) -> None:
    """Let a name in, and print its new token: once, to the standard output."""
    need_unix()
    path, now = _path(tokens_file), time.time()
    made = None if certificate else _new_token()
    entry = Entry(
        name=_checked(name),
        digest=None if made is None else digest_of(made),
        made_unix_s=float(int(now)),
        quota=_quota(quotas),
        expires_unix_s=None if expires is None else _expiry(expires, now),
    )
    _change(path, lambda tokens: tokens.added(entry), may_be_new=True)
    click.echo(f"hat: {entry.name} may come to clouds with {path}", err=True)
    if made is not None:
        _print_token(made, entry.name)


@token.command()
@click.argument("name")
@_quota_option
@_expires_option
@_file_option
def change(
    name: str, quotas: tuple[str, ...], expires: str | None, tokens_file: str | None
) -> None:
    """Give a name another quota (a bound of 0: none) or another time; its token stays."""
    need_unix()
    if not quotas and expires is None:
        raise ConfigError("expected --quota or --expires")
    path, checked, now = _path(tokens_file), _checked(name), time.time()
    ends = None if expires is None else _expiry(expires, now)

    def changed(entry: Entry) -> Entry:
        bounds = {**entry.quota.bounds, **_bounds(quotas)}
        kept = {bound: value for bound, value in bounds.items() if value}
        return replace(entry, quota=_made(kept), expires_unix_s=ends or entry.expires_unix_s)

    _change(path, lambda tokens: tokens.changed(checked, changed))
    click.echo(f"hat: {name} is changed; clouds that run know it within {_ENDED_S} s")


@token.command("list")
@_file_option
def list_names(tokens_file: str | None) -> None:
    """Show the names, until when they may come, and what they may have."""
    now = time.time()
    tokens = _read(_path(tokens_file))
    rows: list[tuple[str, ...]] = [("NAME", "SHOWS", "MADE", "EXPIRES", "QUOTA", "STATE")]
    rows += [_row(each, now) for each in sorted(tokens.entries.values(), key=lambda e: e.name)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@token.command()
@click.argument("name")
@_file_option
def revoke(name: str, tokens_file: str | None) -> None:
    """Let a name in no more; a cloud that runs ends its sessions and connections."""
    need_unix()
    path, now = _path(tokens_file), float(int(time.time()))
    checked = _checked(name)
    _change(path, lambda tokens: tokens.revoked(checked, now))
    click.echo(f"hat: {name} is revoked; clouds that run end what it has within {_ENDED_S} s")


def _print_token(made: str, name: str) -> None:
    """The one time that it is shown.

    Raises:
        CommandError: nothing takes it, such as a full disk: then nobody knows it.
    """
    try:
        # What click writes to an output that is closed, it drops.
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        click.echo(made)
    except OSError as error:
        advice = f"`hat token revoke {name}`, then add it again"
        raise CommandError(
            f"the token cannot be written ({system_reason(error)}), and nobody knows it: {advice}"
        ) from error


def _row(entry: Entry, now: float) -> tuple[str, ...]:
    expires = "-" if entry.expires_unix_s is None else day_of(entry.expires_unix_s)
    why_not = entry.why_not(now)
    state = "revoked" if entry.revoked_unix_s is not None else "expired" if why_not else "valid"
    shows = "certificate" if entry.digest is None else "token"
    return entry.name, shows, day_of(entry.made_unix_s), expires, str(entry.quota), state


def _path(given: str | None) -> Path:
    if given is not None and not given.strip():
        raise ConfigError(f"--tokens-file: expected a file, got {given!r}")
    text = given or os.environ.get(_VARIABLE)
    path = Path(text).expanduser() if text else default_tokens_file(os.environ)
    if path is None:
        raise ConfigError("expected --tokens-file: this user has no home")
    return path


def _read(path: Path) -> Tokens:
    try:
        return read_tokens(path)
    except FileNotFoundError as error:
        raise CommandError(f"no file {path}: `hat token add NAME` makes it") from error


def _change(path: Path, change: Callable[[Tokens], Tokens], may_be_new: bool = False) -> None:
    with alone_with(path):
        is_new = may_be_new and not path.exists()
        try:
            write_tokens(path, change(Tokens() if is_new else _read(path)))
        except TokensError as error:
            raise CommandError(f"{path}: {error}") from error


def _checked(name: str) -> Any:
    try:
        return check_name(name)
    except TokensError as error:
        raise ConfigError(str(error)) from error


def _new_token() -> str:
    chance = base64.urlsafe_b64encode(secrets.token_bytes(TOKEN_BYTES)).decode()
    return TOKEN_PREFIX + chance.rstrip("=")


def _quota(texts: Sequence[str]) -> Quota:
    return _made(_bounds(texts))


def _bounds(texts: Sequence[str]) -> dict[str, int]:
    bounds: dict[str, int] = {}
    empty = next((text for text in texts if not text.strip(" ,")), None)
    if empty is not None:
        raise ConfigError(f"--quota: expected BOUND=N, such as sessions=8, got {empty!r}")
    for part in ",".join(texts).split(","):
        if not part.strip():
            continue
        key, _, value = (each.strip() for each in part.partition("="))
        key = key.replace("-", "_")
        if key not in _BOUNDS or key in bounds:
            raise ConfigError(f"--quota: expected each of {', '.join(_BOUNDS)} once, got {part!r}")
        try:
            bounds[key] = token_count(value)
        except ValueError as error:
            wanted = "a whole number such as 64, 64k (64,000) or 64K (65,536)"
            raise ConfigError(f"--quota {key}: expected {wanted}, got {value!r}") from error
    return bounds


def _made(bounds: dict[str, int]) -> Quota:
    try:
        return Quota(**bounds) if bounds else NO_QUOTA
    except ValueError as error:
        raise ConfigError(f"--quota: {error}") from error


def _expiry(text: str, now: float) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if match is not None:
        ends_s = float(int(now + int(match[1]) * _UNITS_S[match[2]]))
    else:
        try:
            ends_s = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
        except ValueError as error:
            wanted = "90d, 12h, 30m, 4w or a day such as 2027-01-31"
            raise ConfigError(f"--expires: expected {wanted}, got {text!r}") from error
    if not now < ends_s <= MOST_SECONDS:
        raise ConfigError(f"--expires: expected a time to come, up to the year 9999, got {text}")
    return ends_s
