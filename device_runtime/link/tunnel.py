"""A connection to the cloud through an HTTP proxy, for ws:// as well as wss://."""

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

import aiohttp

from device_runtime.link.proxies import Proxy
from process.addresses import bracketed

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.tracing import Trace

_MAX_ANSWER_BYTES = 16_384


class TunnelError(aiohttp.ClientError):
    """The proxy gave no tunnel; the words say which proxy and why, and hold no password."""


class TunnelConnector(aiohttp.BaseConnector):
    """Asks a proxy for a tunnel to each host, and speaks TLS with the host in it."""

    def __init__(self, proxy: Proxy, tls: ssl.SSLContext | None) -> None:
        super().__init__(force_close=True)
        self._proxy = proxy
        self._tls = tls

    async def _create_connection(
        self,
        req: "ClientRequest",
        traces: list["Trace"],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as aiohttp has it
    ) -> "ResponseHandler":
        """What aiohttp's connectors are asked for: a protocol on an open connection."""
        host, port = req.url.host or "", req.url.port or 0
        sock = await self._tunnel(host, port)
        try:
            name = host if self._tls is not None else None
            _, protocol = await asyncio.get_running_loop().create_connection(
                self._factory, sock=sock, ssl=self._tls, server_hostname=name
            )
        except BaseException as error:
            sock.close()
            if isinstance(error, ssl.SSLError):
                raise _tls_error(req.connection_key, error) from error
            raise
        return protocol

    async def _tunnel(self, host: str, port: int) -> socket.socket:
        sock = await self._reach_proxy()
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, self._question(host, port))
            answer = b""
            # Byte by byte: what follows belongs to the cloud.
            while not answer.endswith(b"\r\n\r\n") and len(answer) < _MAX_ANSWER_BYTES:
                byte = await loop.sock_recv(sock, 1)
                if not byte:
                    break
                answer += byte
            self._check(answer)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                reason = f"the proxy at {self._proxy.where} broke the connection"
                raise TunnelError(reason) from error
            raise
        return sock

    async def _reach_proxy(self) -> socket.socket:
        loop, proxy = asyncio.get_running_loop(), self._proxy
        failure: OSError | None = None
        try:
            found = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise TunnelError(f"the proxy's host {proxy.host} is not known") from error
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise TunnelError(f"the proxy at {proxy.where} cannot be reached") from failure

    def _question(self, host: str, port: int) -> bytes:
        where = f"{bracketed(host)}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if self._proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        return "\r\n".join([*lines, "", ""]).encode()

    def _check(self, answer: bytes) -> None:
        where = f"the proxy at {self._proxy.where} (of {self._proxy.variable})"
        words = answer.split(b"\r\n", 1)[0].split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise TunnelError(f"{where} does not answer as an HTTP proxy does")
        status = int(words[1])
        if status == 407:
            raise TunnelError(f"{where} wants a name and a password: http://NAME:PASSWORD@HOST")
        if not 200 <= status < 300:
            raise TunnelError(f"{where} gave no tunnel to the cloud, HTTP {status}")


def _tls_error(key: "ConnectionKey", error: ssl.SSLError) -> aiohttp.ClientConnectorError:
    """As aiohttp's own connector says it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return aiohttp.ClientConnectorCertificateError(key, error)
    return aiohttp.ClientConnectorSSLError(key, error)
