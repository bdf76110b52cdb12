"""Asks one side how it is."""

import json
import ssl
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import aiohttp

from hat.status.samples import NO_SAMPLES, Samples, parse_samples
from process.errors import ConfigError, system_reason

_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
_MAX_REASON = 300
# A metric that only this side has.
_MARKS = {"device": "hat_num_requests_running", "cloud": "hat_cloud_connections"}
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


@dataclass(frozen=True, slots=True)
class Side:
    """Where a side listens, and whether the user named it: one that was not may be missing."""

    name: Literal["device", "cloud"]
    url: str
    is_named: bool
    api_key: str | None = None
    ca_file: str | None = None


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


def root_url(text: str, option: str) -> str:
    """The address of a side without a path, from any address that people have of it.

    Raises:
        ConfigError: it is no address.
    """
    parts = urlsplit(text)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ConfigError(f"{option}: expected an address like http://127.0.0.1:8000, got {text!r}")
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}"


async def ask(http: aiohttp.ClientSession, side: Side, at_s: float) -> SideStatus:
    """How a side is; one that cannot be asked says why in `trouble`."""
    try:
        trouble, samples = await _ask(http, side)
        return SideStatus(side.name, side.url, at_s, True, trouble, samples)
    except aiohttp.ClientConnectorError as error:
        trouble = system_reason(error.os_error).lower()
    except TimeoutError:
        trouble = "it does not answer"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        trouble = f"it cannot be asked: {type(error).__name__}"
    return SideStatus(side.name, side.url, at_s, False, trouble)


async def _ask(http: aiohttp.ClientSession, side: Side) -> tuple[str | None, Samples]:
    """Why a side would serve nothing now, if so, and its samples."""
    headers = {"Authorization": f"Bearer {side.api_key}"} if side.api_key else {}
    tls = True if side.ca_file is None else ssl.create_default_context(cafile=side.ca_file)
    async with http.get(f"{side.url}/ready", ssl=tls, timeout=_TIMEOUT) as response:
        trouble = None if response.status == 200 else _reason(await response.text())
    url = f"{side.url}/metrics"
    async with http.get(url, headers=headers, ssl=tls, timeout=_TIMEOUT) as response:
        page = await response.text()
        if response.status != 200:
            return f"{response.status} {_reason(page)}", NO_SAMPLES
    samples = parse_samples(page)
    found = [name for name, mark in _MARKS.items() if samples.value(mark) is not None]
    if side.name not in found:
        return f"expected a {side.name}, found a {found[0] if found else 'stranger'}", NO_SAMPLES
    return trouble, samples


def _reason(body: str) -> str:
    """The message of an error envelope, or the beginning of a plain text."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body[:_MAX_REASON].strip() or "without a reason"
