"""A device without a model: frames of random rows over a real link, as fast as it is told."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import numpy as np

from submodels.manifest import Manifest
from wire.codec import decode, encode
from wire.handshake import LINK_PATH
from wire.messages import (
    Ability,
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
from wire.numbers import pack_rows

_PATIENCE_S = 30.0

M = TypeVar("M", bound=Message)


class PeerError(Exception):
    """The cloud said something else than was waited for."""


@dataclass(frozen=True, slots=True)
class Target:
    """A cloud, and who comes to it."""

    port: int
    manifest: Manifest
    """What its bundle says of its model."""
    secret: str
    source: str
    """The address to come from."""

    def client(self) -> aiohttp.ClientSession:
        """HTTP from the source's address."""
        connector = aiohttp.TCPConnector(limit=0, local_addr=(self.source, 0))
        return aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", connector=connector)

    def hello(self) -> Hello:
        """The first frame of a device."""
        return Hello(
            min_version=1,
            max_version=1,
            fingerprint=bytes.fromhex(self.manifest.fingerprint),
            first_layer=self.manifest.num_input_layers,
            num_layers=self.manifest.num_middle_layers,
            hidden_size=self.manifest.shape.hidden_size,
            dtypes=(1 << Dtype.FP32) | (1 << Dtype.FP16) | (1 << Dtype.BF16),
            codecs=1 << Codec.RAW | 1 << Ability.QUOTAS,
            credential=self.secret.encode(),
        )


class Peer:
    """One link. It keeps to its credit, which it reads along the way."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, hidden_size: int) -> None:
        self._socket = socket
        self._hidden_size = hidden_size
        self._dtype = Dtype.FP32
        self._num_sessions = 0
        self._num_sent = 0
        self._limit = 0

    async def greet(self, hello: Hello) -> None:
        """Say Hello and be welcomed.

        Raises:
            PeerError: it was not.
        """
        await self.send(hello)
        welcome = await self.expect(Welcome)
        self._dtype, self._limit = welcome.dtype, welcome.credit_limit_tokens

    @property
    def credit(self) -> int:
        """Rows that may be sent now."""
        return self._limit - self._num_sent

    async def open(self, max_tokens: int) -> SessionId:
        """Ask for a session; the answer is still to come."""
        self._num_sessions += 1
        number = SessionId(self._num_sessions)
        await self.send(Open(number, secrets.token_bytes(16), max_tokens))
        return number

    async def rows(self, session: SessionId, position: int, num_rows: int, want: Want) -> None:
        """Send random rows."""
        self._num_sent += num_rows
        numbers = np.random.default_rng(num_rows).standard_normal((num_rows, self._hidden_size))
        payload = pack_rows(numbers, self._dtype)
        await self.send(
            States(session, 0, position, num_rows, self._dtype, Codec.RAW, want, payload)
        )

    async def send(self, message: Message) -> None:
        """Send any message."""
        await self._socket.send_bytes(encode(message))

    async def expect(self, kind: type[M]) -> M:
        """The next message of a kind; credit before it is counted.

        Raises:
            PeerError: a Fault, the end of the link, or nothing for long.
        """
        while True:
            message = await self.receive()
            if isinstance(message, kind):
                return message
            if isinstance(message, Fault):
                raise PeerError(f"{message.code.name}: {message.message}")

    async def receive(self) -> Message:
        """Whatever comes next.

        Raises:
            PeerError: the end of the link, or nothing for long.
        """
        try:
            frame = await asyncio.wait_for(self._socket.receive(), _PATIENCE_S)
        except TimeoutError as error:
            raise PeerError(f"nothing came for {_PATIENCE_S:g} s") from error
        if frame.type is not aiohttp.WSMsgType.BINARY:
            raise PeerError(f"the link ended: {frame.type.name}")
        message = decode(frame.data)
        if isinstance(message, Credit):
            self._limit = max(self._limit, message.limit_tokens)
        return message

    async def read_on(self) -> None:
        """Take what comes until the link ends."""
        with contextlib.suppress(PeerError):
            while True:
                await self.receive()


@contextlib.asynccontextmanager
async def linked(target: Target, client: aiohttp.ClientSession) -> AsyncIterator[Peer]:
    """A peer that was welcomed.

    Raises:
        PeerError: it was not.
    """
    async with client.ws_connect(LINK_PATH, compress=0, max_msg_size=1 << 26) as socket:
        peer = Peer(socket, target.manifest.shape.hidden_size)
        await peer.greet(target.hello())
        yield peer


async def verification_times(target: Target, seconds: float) -> list[float]:
    """An honest device: 32 rows of a prompt, then verifications of 4 rows, one behind the other.

    Raises:
        PeerError: it was refused, or its link ended.
    """
    loop = asyncio.get_running_loop()
    times_s = []
    async with target.client() as client, linked(target, client) as peer:
        session = await peer.open(256)
        await peer.expect(Opened)
        await peer.rows(session, 0, 32, Want.LAST)
        await peer.expect(Reply)
        end_s = loop.time() + seconds
        while (begun_s := loop.time()) < end_s:
            await peer.rows(session, 32, 4, Want.ALL)
            await peer.expect(Reply)
            times_s.append(loop.time() - begun_s)
    return times_s


async def health_times(target: Target, seconds: float) -> list[float]:
    """How long `/health` takes, each time over a new connection; a failure counts as a minute."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    times_s = []
    while (begun_s := loop.time()) < end_s:
        taken_s = 60.0
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with (
                target.client() as client,
                asyncio.timeout(_PATIENCE_S),
                client.get("/health", raise_for_status=True) as response,
            ):
                await response.read()
                taken_s = loop.time() - begun_s
        times_s.append(taken_s)
        await asyncio.sleep(0.1)
    return times_s
