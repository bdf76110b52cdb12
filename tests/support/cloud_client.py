"""A raw device for tests: frames over a real WebSocket, nothing checked on its side."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

from cloud_server.daemon.daemon import Patience
from submodels.manifest import Manifest
from tests.support.fake_middle_engine import deep_rows
from wire.codec import decode, encode
from wire.errors import FaultCode
from wire.messages import (
    Codec,
    Credit,
    Dtype,
    Fault,
    Hello,
    Message,
    Open,
    Opened,
    Reply,
    SessionId,
    States,
    Want,
    Welcome,
)
from wire.numbers import unpack_rows

Rows = NDArray[np.float32]

HIDDEN = 64
"""The hidden size of the model in the repository."""

QUICK = Patience(tick_s=0.02, stall_timeout_s=0.2)

_PATIENCE_S = 20.0


def hello_for(manifest: Manifest, credential: str = "") -> Hello:
    """What a device with the right bundle says first."""
    return Hello(
        min_version=1,
        max_version=1,
        fingerprint=bytes.fromhex(manifest.fingerprint),
        first_layer=manifest.num_input_layers,
        num_layers=manifest.num_middle_layers,
        hidden_size=manifest.shape.hidden_size,
        dtypes=1 << Dtype.FP32,
        codecs=1 << Codec.RAW,
        credential=credential.encode(),
    )


class CloudClient:
    """One socket. Credit messages are counted and skipped."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.credit_limit = 0

    async def send(self, message: Message) -> None:
        """One message as one binary frame."""
        await self.socket.send_bytes(encode(message))

    async def receive(self) -> Message:
        """The next message but Credit.

        Raises:
            ConnectionError: the cloud closed the socket.
        """
        while True:
            frame = await asyncio.wait_for(self.socket.receive(), _PATIENCE_S)
            if frame.type is not aiohttp.WSMsgType.BINARY:
                raise ConnectionError(f"{frame.type.name} {frame.data}")
            message = decode(frame.data)
            if not isinstance(message, Credit):
                return message
            self.credit_limit = message.limit_tokens

    async def shake_hands(self, hello: Hello) -> Welcome:
        """Say hello and be welcomed."""
        await self.send(hello)
        welcome = await self.receive()
        assert isinstance(welcome, Welcome), welcome
        self.credit_limit = welcome.credit_limit_tokens
        return welcome

    async def open(self, number: int, key: bytes, max_tokens: int, **fork: int) -> Opened:
        """Make a session, or take one up."""
        await self.send(Open(SessionId(number), key, max_tokens, **fork))
        opened = await self.receive()
        assert isinstance(opened, Opened), opened
        return opened

    async def run(self, number: int, position: int, rows: Rows, want: Want = Want.ALL) -> Rows:
        """Send rows and wait for the deep ones of the same session."""
        await self.send(states(number, position, rows, want))
        return rows_of(await self.receive(), rows.shape[1])

    async def expect_fault(self, code: FaultCode, session: int = 0) -> Fault:
        """The next message is this Fault; after a connection fault the socket is closed."""
        fault = await self.receive()
        assert isinstance(fault, Fault), fault
        assert (fault.code, fault.session) == (code, session), fault
        if session == 0:
            await self.expect_closed()
        return fault

    async def expect_closed(self) -> None:
        """The cloud ends the socket."""
        with contextlib.suppress(ConnectionError):
            raise AssertionError(f"expected the end, got {await self.receive()}")


def random_rows(num_rows: int, seed: int = 0) -> Rows:
    """Seeded Gaussian rows."""
    return np.random.default_rng(seed).standard_normal((num_rows, HIDDEN)).astype(np.float32)


def session_key(number: int) -> bytes:
    """A key for the n-th session of a test."""
    return number.to_bytes(16, "little")


async def assert_serves(client: CloudClient, number: int, seed: int) -> None:
    """A new session of an open connection gets the rows that the engine without weights gives."""
    rows = random_rows(12, seed)
    await client.open(number, session_key(1000 + number), 64)
    await client.send(states(number, 0, rows[:8], Want.NONE))
    assert rows_of(await client.receive(), HIDDEN).shape == (0, HIDDEN)
    np.testing.assert_array_equal(await client.run(number, 8, rows[8:]), deep_rows(rows)[8:])


def states(number: int, position: int, rows: Rows, want: Want = Want.ALL) -> States:
    """A States message of epoch 0; a test may send numbers that no device would."""
    return States(
        session=SessionId(number),
        epoch=0,
        position=position,
        num_rows=len(rows),
        dtype=Dtype.FP32,
        codec=Codec.RAW,
        want=want,
        payload=rows.astype("<f4").tobytes(),
    )


def rows_of(message: Message, hidden_size: int) -> Rows:
    """The deep rows of a Reply."""
    assert isinstance(message, Reply), message
    return unpack_rows(message.payload, message.num_rows, hidden_size, message.dtype)


@contextlib.asynccontextmanager
async def connected(
    link_url: str, tls: ssl.SSLContext | None = None, receive_buffer_bytes: int | None = None
) -> AsyncIterator[CloudClient]:
    """A socket before the handshake."""

    def make_socket(address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        if receive_buffer_bytes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        return made

    connector = aiohttp.TCPConnector(socket_factory=make_socket)
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        http.ws_connect(link_url, compress=0, max_msg_size=0, ssl=tls or True) as link,
    ):
        yield CloudClient(link)


@contextlib.asynccontextmanager
async def welcomed(
    link_url: str, hello: Hello, receive_buffer_bytes: int | None = None
) -> AsyncIterator[CloudClient]:
    """A socket after the handshake."""
    async with connected(link_url, receive_buffer_bytes=receive_buffer_bytes) as client:
        await client.shake_hands(hello)
        yield client


async def http_get(url: str) -> tuple[int, str]:
    """Status and text of a page."""
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.text()


async def until(condition: Callable[[], bool], patience_s: float = _PATIENCE_S) -> None:
    """Let the event loop run until something has become true.

    Raises:
        TimeoutError: it did not.
    """
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - nothing to wait on, seen from outside
            await asyncio.sleep(0.002)
