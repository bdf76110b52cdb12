"""Asks one side how it is."""

import json
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import aiohttp

from cloud_server.config import CloudConfig, beside
from hat.status.samples import NO_SAMPLES, Samples, parse_samples
from process.addresses import bracketed, is_url, without_user
from process.errors import ConfigError, system_reason
from process.program.exposure import is_loopback
from process.tls.pinned import pinned_context

_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
_MAX_REASON = 300
_CLOUD_PORT = CloudConfig(Path()).port
# A metric that only this side has.
_MARKS = {"device": "hat_num_requests_running", "cloud": "hat_cloud_connections"}
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


@dataclass(frozen=True, slots=True)
class Side:
    """Where a side listens, and whether the user named it: one that was not may be missing."""

    name: Literal["device", "cloud"]
    url: str
    is_named: bool
    api_key: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    pins: tuple[str, ...] = ()
    """Of its key, one of which must be its, in place of an authority's word."""
    metrics_urls: tuple[str, ...] = ()
    """Where its figures may be, if not there."""


@dataclass(frozen=True, slots=True)
class SideStatus:
    """What a side said at a moment."""

    name: Literal["device", "cloud"]
    url: str
    at_s: float
    """By a monotonic clock."""
    is_there: bool
    """Whether anything answered."""
    trouble: str | None = None
    """Why it would serve nothing now; None: it would."""
    samples: Samples = NO_SAMPLES
    note: str | None = None
    """Why there are no figures of a side that is there."""


def root_url(text: str, option: str) -> str:
    """The address of a side without a path, from any address that people have of it.

    Raises:
        ConfigError: it is no address.
    """
    if not is_url(text, tuple(_SCHEMES)):
        got = without_user(text)
        raise ConfigError(f"{option}: expected an address like http://127.0.0.1:8000, got {got!r}")
    parts = urlsplit(text)
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}"


async def ask(http: aiohttp.ClientSession, side: Side, at_s: float) -> SideStatus:
    """How a side is; one that cannot be asked says why in `trouble`."""
    try:
        return await _ask(http, side, at_s)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return SideStatus(side.name, without_user(side.url), at_s, False, _words(error, side))


def roots_beside(url: str) -> tuple[str, ...]:
    """Where a cloud at this address has its figures, unless it was told otherwise; likely first.

    What only its own machine reaches has no TLS, and what others reach has it as the link has.
    """
    parts = urlsplit(url)
    address = f"{bracketed(str(parts.hostname))}:{beside(parts.port or _CLOUD_PORT)}"
    plain, secure = f"http://{address}", f"https://{address}"
    if parts.scheme != "https":
        return (plain,)
    return (plain, secure) if is_loopback(str(parts.hostname)) else (secure, plain)


async def _ask(http: aiohttp.ClientSession, side: Side, at_s: float) -> SideStatus:
    """How a side is that is there."""
    async with http.get(f"{side.url}/ready", ssl=_tls(side), timeout=_TIMEOUT) as response:
        trouble = None if response.status == 200 else _reason(await response.text())
    heard = SideStatus(side.name, without_user(side.url), at_s, True, trouble)
    note = None
    for url in side.metrics_urls:
        try:
            return replace(heard, samples=await _figures(http, side, url))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            note = note or f"no figures: {without_user(url)}: {_words(error, side)}"
    # So it is with devices, and with clouds of before figures had a port of their own.
    try:
        return replace(heard, samples=await _figures(http, side, side.url))
    except _PageError as error:
        is_without = error.status == 404 and note is not None
        return replace(heard, note=note) if is_without else replace(heard, trouble=str(error))


class _PageError(ValueError):
    """What was found in place of a side's figures, in words."""

    def __init__(self, words: str, status: int = 200) -> None:
        super().__init__(words)
        self.status = status


async def _figures(http: aiohttp.ClientSession, side: Side, url: str) -> Samples:
    """Those at an address; they are this side's."""
    headers = {"Authorization": f"Bearer {side.api_key}"} if side.api_key else {}
    async with http.get(
        f"{url}/metrics", headers=headers, ssl=_tls(side), timeout=_TIMEOUT
    ) as response:
        page = await response.text()
    if response.status != 200:
        raise _PageError(f"{response.status} {_reason(page)}", response.status)
    samples = parse_samples(page)
    found = [name for name, mark in _MARKS.items() if samples.value(mark) is not None]
    if side.name not in found:
        stranger = found[0] if found else "stranger"
        raise _PageError(f"expected a {side.name}, found a {stranger}")
    return samples


def _tls(side: Side) -> bool | ssl.SSLContext:
    ca_file = None if side.ca_file is None else Path(side.ca_file)
    if side.pins:
        return pinned_context(side.pins, ca_file)
    return True if ca_file is None else ssl.create_default_context(cafile=ca_file)


def _words(error: Exception, side: Side) -> str:
    """Why somebody could not be asked."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            found = getattr(error.certificate_error, "found", None)
            key = "" if found is None else f", whose key is {found}"
            advice = "; give its pin with --cloud-pin, or its CA with --cloud-ca"
            is_untold = side.name == "cloud" and not side.pins and side.ca_file is None
            return f"its certificate is not trusted{key}{advice if is_untold else ''}"
        case aiohttp.ClientConnectorError():
            return system_reason(error.os_error).lower()
        case TimeoutError():
            return "it does not answer"
        case _PageError():
            return str(error)
        case _:
            return f"it cannot be asked: {type(error).__name__}"


def _reason(body: str) -> str:
    """The message of an error envelope, or the beginning of a plain text."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body[:_MAX_REASON].strip() or "without a reason"
