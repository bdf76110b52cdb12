"""How the device opens a WebSocket to its cloud: with TLS or without, through a proxy or not."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp

from device_runtime.link.config import CLOSE_S, LinkConfig, link_url
from device_runtime.link.proxies import Proxy
from device_runtime.link.trust import DialedTls
from device_runtime.link.tunnel import TunnelConnector
from process.sockets.aiohttp_socket import AiohttpSocket
from process.sockets.congestion import check_congestion_control, choose_congestion_control
from process.sockets.socket import Socket
from process.sockets.tcp import keep_unsent_short
from wire.limits import ITEM_BYTES, MAX_HEADER_BYTES, MAX_TAPS, MAX_WELCOME_BYTES
from wire.messages import Dtype

MAX_FRAME_TOKENS = 4096
"""Rows per frame, whatever the cloud would take; bounds what a frame of it can make us allocate."""

_PROBE_S = 3.0

_UNSENT_BYTES = 65_536

Dial = Callable[[], contextlib.AbstractAsyncContextManager[Socket]]
"""Opens a socket; it is closed by whoever uses it, and what is below it when the context ends."""


class Dialer:
    """A `Dial` for one cloud. Whoever calls it bounds the time it may take.

    Raises:
        StartError: when made, for an address, CA file, proxy or congestion control that cannot be
            used.
    """

    def __init__(self, config: LinkConfig) -> None:
        self._url = link_url(config.url)
        self._tls = DialedTls(self._url, config.ca_file, config.pins, config.shown)
        self._proxy = config.proxy
        check_congestion_control(config.congestion_control)
        self._congestion_control = config.congestion_control
        row_bytes = config.model.hidden_size * ITEM_BYTES[Dtype.FP32]
        frame_bytes = MAX_HEADER_BYTES + MAX_FRAME_TOKENS * row_bytes * (1 + MAX_TAPS)
        self._max_frame_bytes = max(MAX_WELCOME_BYTES, frame_bytes)

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[AiohttpSocket]:
        """A socket on which nothing was said yet."""
        tls = self._tls.context()
        client = open_client(self._proxy, tls, aiohttp.ClientTimeout(total=None))
        try:
            ws = await client.ws_connect(
                self._url,
                ssl=True if tls is None else tls,
                autoping=False,
                compress=0,
                max_msg_size=self._max_frame_bytes,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
            )
            sock = ws.get_extra_info("socket")
            if sock is not None:
                keep_unsent_short(sock, _UNSENT_BYTES)
                if self._congestion_control is not None:
                    choose_congestion_control(sock, self._congestion_control)
            yield AiohttpSocket(ws, ws._writer.transport)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await client.close()

    async def finds_tls(self) -> bool:
        """Whether a ws:// address that broke off the opening would have taken TLS."""
        if self._tls.context() is not None or self._proxy is not None:
            return False
        parts = urlsplit(self._url)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Nothing is sent: whose certificate it is does not matter.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            async with asyncio.timeout(_PROBE_S):
                _, writer = await asyncio.open_connection(
                    parts.hostname, parts.port or 80, ssl=context
                )
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True


def open_client(
    proxy: Proxy | None,
    tls: ssl.SSLContext | None,
    timeout: aiohttp.ClientTimeout,
) -> aiohttp.ClientSession:
    """What asks a cloud, through a proxy or not; no redirect is followed, nothing unpacked.

    `tls` is what a certificate is checked with, behind a proxy too; None: the address has none.
    """
    connector: aiohttp.BaseConnector
    if proxy is None:
        connector = aiohttp.TCPConnector(force_close=True)
    else:
        connector = TunnelConnector(proxy, tls)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        trace_configs=[_no_redirects()],
    )


def _no_redirects() -> aiohttp.TraceConfig:
    """The secret is for the cloud that was named, not for one that it names."""

    async def refuse(
        client: aiohttp.ClientSession,
        context: SimpleNamespace,
        redirect: aiohttp.TraceRequestRedirectParams,
    ) -> None:
        answer = redirect.response
        raise aiohttp.WSServerHandshakeError(answer.request_info, (), status=answer.status)

    traces = aiohttp.TraceConfig()
    traces.on_request_redirect.append(refuse)
    return traces
