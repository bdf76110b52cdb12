"""A cloud that speaks the wire over a socket, real or in memory, with a middle made of integers.

It answers every frame at once, in order, unless told to hold, refuse or vanish. A session whose
socket is lost is lost with it, unless `keep_tokens` says how much of it is kept.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from aiohttp import web

from device_runtime.link.config import LinkConfig, ModelIdentity, Patience
from device_runtime.link.link import Link
from process.sockets.aiohttp_socket import AiohttpSocket
from process.sockets.socket import Socket
from tests.support.event_loop import is_virtual
from tests.support.fake_model import HIDDEN_SIZE, MAX_CONTEXT_TOKENS, FakeMiddle
from tests.support.link_errors import nobody_there
from tests.support.memory_link import MemoryNetwork
from tests.support.world import world_here
from wire.codec import decode, encode
from wire.connection import CloudConnection
from wire.errors import FaultCode, RemoteProtocolError
from wire.handshake import LINK_PATH, CloudTerms, answer_hello
from wire.limits import RowLimits
from wire.messages import (
    NO_SESSION,
    Close,
    Codec,
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
)
from wire.numbers import pack_rows, unpack_rows

FINGERPRINT = bytes(range(32))
MODEL = ModelIdentity(FINGERPRINT, first_layer=1, num_layers=3, hidden_size=HIDDEN_SIZE)
SECRET = b"a shared secret"

Vanishing = Literal["unseen", "unanswered"] | None
"""How a cloud goes away at a frame: before it was computed, or with the reply on its lips."""

IMPATIENT = Patience(min_retry_s=0.001, max_retry_s=0.01, refused_retry_s=0.01)
"""Retries at once, so that no test on real sockets waits."""


@dataclass
class FakeCloud:
    """Change its fields to change its mood; `frames` and `live` are what it saw."""

    fingerprint: bytes = FINGERPRINT
    middle_fingerprint: bytes = b""
    secret: bytes = SECRET
    dtype: Dtype = Dtype.FP32
    max_frame_tokens: int = 64
    window_tokens: int = 256
    max_context_tokens: int = MAX_CONTEXT_TOKENS
    session_ttl_s: float = 60.0
    refuse_connection: Fault | None = None
    refuse_open: list[Fault] = field(default_factory=list)
    is_draining: bool = False
    refuse_states: Fault | None = None
    vanish_after_frames: int | None = None
    vanish_on: Callable[[States], Vanishing] = lambda _: None
    keep_tokens: int = 0
    unasked_reply: bool = False
    tls: ssl.SSLContext | None = None
    port: int = 0
    frames: list[States] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)
    opens: list[Open] = field(default_factory=list)
    live: dict[SessionId, FakeMiddle] = field(default_factory=dict)
    going: asyncio.Event = field(default_factory=asyncio.Event)
    opening: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.going.set()
        self.opening.set()
        self._sockets: set[Socket] = set()
        self._kept: dict[bytes, FakeMiddle] = {}
        self._runner: web.AppRunner | None = None
        self.network: MemoryNetwork | None = None

    async def start(self) -> None:
        """Listen, on the same port as before if there was one; in virtual time, in memory."""
        if is_virtual():
            self.network = self.network or MemoryNetwork(self)
            self.network.fails = None
            return
        app = web.Application()
        app.router.add_get(LINK_PATH, self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self.port, ssl_context=self.tls, reuse_address=True
        )
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Be gone: no socket, no listener."""
        self.vanish()
        if self.network is not None:
            self.network.fails = nobody_there()
        if self._runner is not None:
            await self._runner.cleanup()

    def vanish(self) -> None:
        """Cut every socket without a word; keep listening."""
        for socket in list(self._sockets):
            socket.abort()

    async def emptied(self) -> None:
        """Wait until no session is left."""
        while self.live:
            self.idle.clear()
            await self.idle.wait()

    def config(self, **changes: object) -> LinkConfig:
        """How a device reaches this cloud."""
        fields = {
            "url": f"ws://127.0.0.1:{self.port or 1}",
            "model": MODEL,
            "secret": SECRET,
            "patience": Patience() if is_virtual() else IMPATIENT,
        }
        return LinkConfig(**{**fields, **changes})

    def make_link(self, **changes: object) -> Link:
        """A device's link to it, not yet started."""
        return link_to(self.config(**changes), self.network)

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False, max_msg_size=2**24)
        await ws.prepare(request)
        socket = AiohttpSocket(ws, request.transport)
        await self.serve(socket)
        await ws.close()
        return ws

    async def serve(self, socket: Socket) -> None:
        """Talk on one socket until it is gone."""
        self._sockets.add(socket)
        opened: dict[SessionId, bytes] = {}
        try:
            await self._talk(socket, opened)
        except RemoteProtocolError as error:
            await socket.send(encode(Fault(error.code, NO_SESSION, 0.0, error.message)))
        except ConnectionError:
            pass
        finally:
            for session, key in opened.items():
                middle = self.live.pop(session, None)
                if middle is not None and self.keep_tokens > 0:
                    self._kept[key] = middle.fork(min(self.keep_tokens, len(middle.states)))
            self.idle.set()
            self._sockets.discard(socket)

    async def _talk(self, socket: Socket, opened: dict[SessionId, bytes]) -> None:
        rows = RowLimits(HIDDEN_SIZE, self.dtype, self.max_frame_tokens)
        rules = CloudConnection(rows, self.window_tokens)
        while (frame := await socket.receive()) is not None:
            assert isinstance(frame, bytes)
            message = decode(frame)
            rules.receive(message)
            await self.going.wait()
            if isinstance(message, Open):
                await self.opening.wait()
                opened[message.session] = message.key
            for answer in self._answers(message, rows, rules):
                rules.send(answer)
                await socket.send(encode(answer))
            if isinstance(message, Hello) and self.refuse_connection is not None:
                return

    def _answers(self, message: Message, rows: RowLimits, rules: CloudConnection) -> list[Message]:
        match message:
            case Hello():
                self.hellos.append(message)
                if self.refuse_connection is not None:
                    return [self.refuse_connection]
                return [answer_hello(message, self._terms(rows))]
            case Open():
                answers = [self._open(message)]
                if self.unasked_reply:
                    place = (message.session, 1, 0, 0, self.dtype, Codec.RAW)
                    answers.append(Reply(*place, 0, 0.0, 0.0, 0, b""))
                return answers
            case Close():
                self.live.pop(message.session, None)
                self.idle.set()
            case States():
                return self._step(message, rules)
        return []

    def _terms(self, rows: RowLimits) -> CloudTerms:
        layers = (MODEL.first_layer, MODEL.num_layers)
        limits = (self.max_context_tokens, self.window_tokens, self.session_ttl_s)
        middle = self.middle_fingerprint
        return CloudTerms(self.fingerprint, *layers, self.secret, rows, *limits, middle)

    def _open(self, message: Open) -> Message:
        self.opens.append(message)
        if self.refuse_open:
            fault = self.refuse_open.pop(0)
            return Fault(fault.code, message.session, fault.retry_after_s, fault.message)
        if self.is_draining:
            return Fault(FaultCode.DRAINING, message.session, 5.0, "the cloud takes no new ones")
        middle = self._kept.pop(message.key, None) or FakeMiddle()
        if message.fork_of != NO_SESSION:
            source = self.live.get(message.fork_of)
            if source is None or len(source.states) < message.fork_tokens:
                return Fault(FaultCode.POSITION_MISMATCH, message.session, 0.0, "")
            middle = source.fork(message.fork_tokens)
        self.live[message.session] = middle
        return Opened(message.session, len(middle.states))

    def _step(self, states: States, rules: CloudConnection) -> list[Message]:
        middle = self.live.get(states.session)
        credit = rules.give_back(states.num_rows)
        given: list[Message] = [] if credit is None else [credit]
        if middle is None:
            return given
        self.frames.append(states)
        if self.vanish_after_frames is not None and len(self.frames) >= self.vanish_after_frames:
            self.vanish_after_frames = None
            self.vanish()
            raise ConnectionResetError
        vanishing = self.vanish_on(states)
        if vanishing == "unseen":
            self.vanish()
            raise ConnectionResetError
        if self.refuse_states is not None:
            del self.live[states.session]
            fault = self.refuse_states
            return [*given, Fault(fault.code, states.session, fault.retry_after_s, fault.message)]
        if states.position > len(middle.states):
            del self.live[states.session]
            return [*given, Fault(FaultCode.POSITION_MISMATCH, states.session, 0.0, "")]
        shallow = unpack_rows(states.payload, states.num_rows, HIDDEN_SIZE, states.dtype)
        deep = middle.step(shallow.astype(np.float32), states.position)
        if vanishing == "unanswered":
            self.vanish()
            raise ConnectionResetError
        wanted = {Want.NONE: deep[:0], Want.LAST: deep[-1:], Want.ALL: deep}[states.want]
        reply = Reply(
            states.session,
            states.epoch,
            states.position,
            len(wanted),
            states.dtype,
            Codec.RAW,
            cached_tokens=len(middle.states),
            queue_s=0.001,
            compute_s=0.002,
            batch_tokens=states.num_rows,
            payload=bytes(pack_rows(wanted, states.dtype)),
        )
        return [*given, reply]


def fault(code: FaultCode, retry_after_s: float = 0.0, message: str = "") -> Fault:
    """A fault of the connection; the cloud puts the session in where one is meant."""
    return Fault(code, NO_SESSION, retry_after_s, message)


def link_to(config: LinkConfig, network: MemoryNetwork | None) -> Link:
    """A link in the running loop's world, over a network in memory if there is one."""
    world = world_here()
    dial = None if network is None else network.dial
    return Link(config, world.clock, world.randomness, dial=dial)


@contextlib.asynccontextmanager
async def running(cloud: FakeCloud, **changes: object) -> AsyncIterator[Link]:
    """A cloud and a link to it, both stopped at the end; not yet connected."""
    await cloud.start()
    link = cloud.make_link(**changes)
    link.start()
    try:
        yield link
    finally:
        await link.close()
        await cloud.stop()
