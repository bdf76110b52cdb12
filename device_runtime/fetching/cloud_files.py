"""What a cloud answers when it is asked for the device bundle; HTTP, and nothing decided."""

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from aiohttp import hdrs
from yarl import URL

from device_runtime.fetching.listing import FetchError
from device_runtime.link.config import link_url
from device_runtime.link.dialing import open_client
from device_runtime.link.proxies import Proxy
from device_runtime.link.trust import DialedTls
from submodels.bundle.manifest_file import MAX_MANIFEST_BYTES
from submodels.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE_FILE
from wire.handshake import BUNDLE_PATH, LINK_PATH

PIECE_BYTES = 1 << 18

_CONNECT_S = 10.0
_SILENCE_S = 10.0
_SCHEMES = {"ws": "http", "wss": "https"}
_MOST_WORDS = 200
_NOT_PLAIN = re.compile(r"[^ -~]+")
_PART = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


class StatusError(Exception):
    """The cloud answers with a status that is neither 200 nor 206.

    `words` are the cloud's own of why it lets nobody in, short and plain; empty otherwise.
    """

    def __init__(self, status: int, retry_after_s: float, words: str = "") -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.retry_after_s = retry_after_s
        self.words = words


@dataclass(frozen=True, slots=True)
class CloudAddress:
    """Which cloud is asked, and how it is reached. `secret` never shows in a repr."""

    url: str
    """As `--cloud` has it."""
    secret: str | None = field(default=None, repr=False)
    tls: DialedTls | None = None
    proxy: Proxy | None = None

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc

    @property
    def bundle_url(self) -> str:
        """Where its bundle is asked for: beside the link."""
        parts = urlsplit(link_url(self.url))
        before = parts.path.removesuffix(LINK_PATH) if parts.path.endswith(LINK_PATH) else ""
        path = before + BUNDLE_PATH
        return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, "", ""))


@dataclass(frozen=True, slots=True)
class Answer:
    """A file's bytes from `start` on; `total` is its whole size, if the cloud says it."""

    start: int
    total: int | None
    response: aiohttp.ClientResponse

    def pieces(self) -> AsyncIterator[bytes]:
        """What comes, in pieces of `PIECE_BYTES` at the most."""
        return self.response.content.iter_chunked(PIECE_BYTES)


class CloudFiles:
    """Asks one cloud. An async context; every method raises what aiohttp raises."""

    def __init__(self, address: CloudAddress) -> None:
        self._address = address
        self._tls = None if address.tls is None else address.tls.context()
        self._client = open_client(
            address.proxy,
            self._tls,
            aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def manifest(self) -> bytes:
        """The manifest of the bundle that is served now.

        Raises:
            StatusError: there is none, or not for this device.
            FetchError: it is too long.
        """
        async with self._get(self._address.bundle_url, {}) as response:
            return await _whole(response, MAX_MANIFEST_BYTES, "the manifest")

    async def signatures(self, digest: str) -> bytes | None:
        """Who signed the manifest of this digest; None: nobody.

        Raises:
            StatusError: another bundle is served by now.
            FetchError: they are too long.
        """
        try:
            async with self._get(self._url(digest, SIGNATURE_FILE), {}) as response:
                return await _whole(response, MAX_SIGNATURE_BYTES, SIGNATURE_FILE)
        except StatusError as error:
            if error.status == 404:
                return None
            raise

    @contextlib.asynccontextmanager
    async def file(self, digest: str, name: str, start: int) -> AsyncIterator[Answer]:
        """A file of the bundle of this digest, from byte `start` on or whole.

        Raises:
            StatusError: there is nothing of it.
            FetchError: the answer makes no sense.
        """
        fields = {str(hdrs.RANGE): f"bytes={start}-"} if start else {}
        async with self._get(self._url(digest, name), fields) as response:
            yield _answer(response)

    @contextlib.asynccontextmanager
    async def _get(self, url: str, fields: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        fields = {**fields, str(hdrs.ACCEPT_ENCODING): "identity"}
        if self._address.secret is not None:
            fields[str(hdrs.AUTHORIZATION)] = f"Bearer {self._address.secret}"
        tls = True if self._tls is None else self._tls
        async with self._client.get(
            URL(url, encoded=True), headers=fields, ssl=tls, allow_redirects=False
        ) as response:
            if response.status not in (200, 206):
                words = await _words(response) if response.status == 401 else ""
                raise StatusError(response.status, _seconds(response.headers), words)
            if response.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
                raise FetchError("the cloud, or a proxy before it, compresses the bundle")
            yield response

    def _url(self, digest: str, name: str) -> str:
        return f"{self._address.bundle_url}/{digest}/{name}"


def _answer(response: aiohttp.ClientResponse) -> Answer:
    if response.status == 200:
        return Answer(0, response.content_length, response)
    field = response.headers.get(hdrs.CONTENT_RANGE, "")
    found = _PART.fullmatch(field)
    if found is None:
        raise FetchError(f"the cloud sends a part of a file without saying which: {field[:40]!r}")
    return Answer(int(found[1]), int(found[3]), response)


async def _words(response: aiohttp.ClientResponse) -> str:
    """The beginning of a plain text; of a page of a proxy's nothing."""
    if response.content_type != "text/plain":
        return ""
    begin = await response.content.read(_MOST_WORDS)
    return _NOT_PLAIN.sub(" ", begin.decode("ascii", "replace")).strip()


async def _whole(response: aiohttp.ClientResponse, most_bytes: int, what: str) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_chunked(PIECE_BYTES):
        content += piece
        if len(content) > most_bytes:
            raise FetchError(f"{what} that the cloud sends is longer than {most_bytes} bytes")
    return bytes(content)


def _seconds(headers: Mapping[str, str]) -> float:
    """What Retry-After says, if that is a number."""
    text = headers.get(hdrs.RETRY_AFTER, "")
    return float(text) if re.fullmatch(r"\d{1,6}", text) else 0.0
