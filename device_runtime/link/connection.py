"""One socket to the cloud, from the greeting to the loss: writes, reads, and hands out."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable

from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.carried import came_down
from device_runtime.link.coding import LinkCoding
from device_runtime.link.config import CLOSE_S, Patience
from device_runtime.link.lanes import LanePlan, Lanes
from device_runtime.link.meter import LinkMeter
from device_runtime.link.outbox import Control, Outbox
from device_runtime.link.session import (
    LinkSession,
    SessionName,
    SessionRefusedError,
    Slowness,
)
from process.sockets.heartbeat import until_silent
from process.sockets.socket import Socket
from process.world import Clock, Randomness
from wire.codec import decode, encode
from wire.connection import DeviceConnection
from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import KEY_BYTES
from wire.messages import (
    NO_SESSION,
    Ability,
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
    Welcome,
)

_LAST_WORDS_S = 1.0

Send = Callable[[bytes], Awaitable[None]]
"""Hands a frame over and waits while that is too much, as `Socket.send`."""


class LostError(Exception):
    """The socket closed, or its far end fell silent; the words say which."""


class RefusedError(Exception):
    """The cloud refused the whole connection."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.code.name)
        self.fault = fault


class LinkConnection:
    """Its owner awaits `handshake`, then `run`; sessions come from `open` in between.

    A cloud that takes no new sessions because it stops is left once the last one here is over;
    `on_leaving` is called as soon as that is known.
    """

    def __init__(
        self,
        socket: Socket,
        patience: Patience,
        meter: LinkMeter,
        on_leaving: Callable[[], None],
        slowness: Slowness,
        clock: Clock,
        randomness: Randomness,
        coding: LinkCoding,
    ) -> None:
        self._clock = clock
        self._randomness = randomness
        self._socket = socket
        self._patience = patience
        self._meter = meter
        self._rules = DeviceConnection()
        self._outbox = Outbox(0)
        self._sessions: dict[SessionId, LinkSession] = {}
        self._last_session = NO_SESSION
        self._changed = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._on_leaving = on_leaving
        self._is_deserted = asyncio.Event()
        self.is_leaving = False
        self._is_given_up = asyncio.Event()
        self._given_up_for = ""
        self.dtype = Dtype.FP32
        self.coding = coding
        self._taps = 0
        self.takes_traces = False
        self.num_events = 0
        self.slowness = slowness
        self._num_writing = 0
        self._lanes: Lanes | None = None
        self._on_broken_lane: Callable[[], None] = lambda: None

    async def handshake(self, hello: Hello, taps: int = 0) -> Welcome:
        """Greet the cloud; its sessions ask for `taps` (see `Open`) if it knows them.

        Raises:
            RefusedError: it does not want this device.
            RemoteProtocolError, LostError: it is no cloud, or not now.
        """
        await self._write(hello)
        welcome, _ = await self._read()
        if not isinstance(welcome, Welcome):
            reason = f"expected Welcome, got {type(welcome).__name__}"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
        self.dtype = welcome.dtype
        assert self._rules.rows is not None, "a Welcome came"
        self.coding = self.coding.agreed(self._rules.rows, welcome)
        self.takes_traces = bool(welcome.codecs >> Ability.TRACES & 1)
        self._taps = taps if welcome.codecs >> Codec.TAPPED & 1 else 0
        self._outbox = Outbox(welcome.credit_limit_tokens)
        return welcome

    def use_lanes(self, plan: LanePlan, on_broken: Callable[[], None]) -> None:
        """Have long frames carried by further sockets as well; `on_broken`: one broke in use."""

        def broke() -> None:
            self.give_up_lanes("a further connection to it broke")

        self._on_broken_lane = on_broken
        self._lanes = Lanes(plan, self._patience, self._clock, broke)

    @property
    def num_lanes(self) -> int:
        """Further sockets that carry pieces now."""
        return 0 if self._lanes is None else len(self._lanes)

    @property
    def has_lanes(self) -> bool:
        """Whether frames can go in pieces now."""
        return self.num_lanes > 0

    @property
    def is_writing(self) -> bool:
        """Whether a message is on its way into a socket."""
        return self._num_writing > 0

    async def run(self) -> None:
        """Carry messages until the socket is lost; always raises, as `handshake` does."""
        writer = asyncio.create_task(self._write_all())
        reader = asyncio.create_task(self._read_all())
        ends = [self._watch(), self._end_when_given_up(), self._leave()]
        if self._lanes is not None:
            ends += [self._lanes.run(), self._write_pieces(self._lanes)]
        tasks = (*(asyncio.create_task(end) for end in ends), reader, writer)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and not reader.done():
                # A refusal may still be unread when writing fails, and says more.
                await asyncio.wait({reader}, timeout=_LAST_WORDS_S)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._rules.close()
            self._meter.on_lost()

    def open(
        self, max_tokens: int, fork_of: LinkSession | None = None, fork_tokens: int = 0
    ) -> LinkSession:
        """Ask for a session, empty or begun as a copy of another's first tokens."""
        parent = NO_SESSION if fork_of is None else fork_of.session
        key = self._randomness.randbytes(KEY_BYTES)
        number = self._next_session()
        return self._open(Open(number, key, max_tokens, parent, fork_tokens, self._taps))

    def reopen(self, lost: LinkSession) -> LinkSession:
        """Ask for a session of an earlier connection, or one that the cloud has ended."""
        session = self.take_up(lost.name)
        session.continues(lost)
        return session

    def take_up(self, name: SessionName) -> LinkSession:
        """Ask for a session by its key."""
        number = self._next_session()
        return self._open(Open(number, name.key, name.max_tokens, taps=self._taps))

    def put(self, item: Control | States, is_verify: bool = False) -> None:
        """Queue a message."""
        self._outbox.put(item, is_verify)
        self._is_idle.clear()
        self._changed.set()

    def discard_older(self, session: SessionId, epoch: int) -> int:
        """Drop the session's rows of older epochs that are not written; how many frames."""
        return self._outbox.discard_older(session, epoch)

    def close_session(self, session: SessionId) -> None:
        """Drop what the session still wants to send, and send Close."""
        if self._sessions.pop(session, None) is not None:
            self.put(Close(session))
            self._note_if_deserted()

    def abandon_session(self, session: SessionId) -> None:
        """Forget a session that the cloud is to keep: it is opened again by its key."""
        if self._sessions.pop(session, None) is not None:
            self._outbox.discard(session)
            self._note_if_deserted()

    def give_up(self, reason: str) -> None:
        """End the connection: it carries nothing any more, though its socket lives."""
        self._given_up_for = reason
        self._is_given_up.set()

    def give_up_lanes(self, reason: str) -> None:
        """The same, and say that lanes are not to be trusted for a while."""
        self._on_broken_lane()
        self.give_up(reason)

    async def flush(self) -> None:
        """Wait a moment until everything that may be sent is sent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._is_idle.wait()

    async def close_socket(self) -> None:
        """Say goodbye, for a moment at most; then the socket is closed."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close()

    def fail_sessions(self, failure: Callable[[], CloudUnavailableError]) -> None:
        """The socket is gone, and every session with it."""
        for session in self._sessions.values():
            session.fail(failure())
        self._sessions.clear()

    async def _leave(self) -> None:
        """Wait until there is nothing left to do for a cloud that stops, and end with its reason.

        Raises:
            RefusedError: always.
        """
        await self._is_deserted.wait()
        await self.flush()
        raise RefusedError(Fault(FaultCode.DRAINING, NO_SESSION, 0.0, ""))

    async def _watch(self) -> None:
        """Ask the far end for a sign of life when it is silent.

        Raises:
            LostError: it gave none; never returns.
        """
        silence_s = self._patience.heartbeat_s
        await until_silent(self._socket, silence_s, self._clock)
        # What waits to be written would keep the socket open for many minutes.
        self._socket.abort()
        raise LostError(f"nothing came from it for {silence_s:g} s")

    async def _end_when_given_up(self) -> None:
        await self._is_given_up.wait()
        raise LostError(self._given_up_for)

    def _note_if_deserted(self) -> None:
        if self.is_leaving and not self._sessions:
            self._is_deserted.set()

    def _next_session(self) -> SessionId:
        self._last_session = SessionId(self._last_session + 1)
        return self._last_session

    def _open(self, request: Open) -> LinkSession:
        self.put(request)
        session = LinkSession(request, self, self._patience, self._clock)
        self._sessions[request.session] = session
        return session

    async def _write_all(self) -> None:
        """Everything but what goes in pieces."""
        while True:
            item = self._outbox.next(self._rules.num_available_tokens, self._goes_whole)
            if item is None:
                await self._until_more()
                continue
            num_bytes = await self._write(item)
            if isinstance(item, States):
                self._note_sent(item, num_bytes)
            else:
                # Rows behind it may go in pieces now.
                self._changed.set()

    async def _write_pieces(self, lanes: Lanes) -> None:
        """What goes in pieces: prompts, which so hold up no verification."""
        while True:
            available = self._rules.num_available_tokens
            states = self._outbox.next_rows(available, lambda item: not self._goes_whole(item))
            if states is None:
                await self._until_more()
                continue
            key = (states.session, states.epoch, states.position)
            num_bytes = await self._write(states, functools.partial(lanes.send, key=key))
            self._note_sent(states, num_bytes)

    def _goes_whole(self, states: States) -> bool:
        """Whether a frame does not go in pieces; without lanes none of its session does any more,
        until all are answered (rule W46)."""
        session = self._sessions.get(states.session)
        if session is None or not session.is_in_pieces:
            return True
        session.is_in_pieces = self.has_lanes
        return not session.is_in_pieces

    async def _until_more(self) -> None:
        if not self._num_writing:
            self._is_idle.set()
        self._changed.clear()
        await self._changed.wait()

    def _note_sent(self, states: States, num_bytes: int) -> None:
        session = self._sessions.get(states.session)
        if session is not None:
            session.take_sent(num_bytes)

    async def _write(self, message: Message, send: Send | None = None) -> int:
        """Write one message and wait while its socket is congested; the bytes of its frame.

        `send` None takes the first socket.
        """
        self._rules.send(message)
        frame = encode(message)
        self._meter.on_write(message, len(frame))
        self._num_writing += 1
        try:
            await (self._socket.send if send is None else send)(frame)
        except ConnectionError as error:
            raise LostError("the connection broke") from error
        self._num_writing -= 1
        self.num_events += 1
        return len(frame)

    async def _read_all(self) -> None:
        while True:
            message, num_bytes = await self._read()
            if isinstance(message, Reply):
                await self._hand_out_reply(message, num_bytes)
            else:
                self._hand_out(message)

    async def _read(self) -> tuple[Message, int]:
        """The next message, checked against the rules, and the bytes of its frame."""
        try:
            frame = await self._socket.receive()
        except ConnectionError as error:
            raise LostError("the connection broke") from error
        if frame is None:
            raise LostError("it closed the connection")
        if isinstance(frame, str):
            raise RemoteProtocolError(FaultCode.BAD_FRAME, "expected a binary frame, got text")
        message = decode(frame)
        self._rules.receive(message)
        self._meter.on_read(message, len(frame))
        self.num_events += 1
        if isinstance(message, Fault) and message.session == NO_SESSION:
            raise RefusedError(message)
        return message, len(frame)

    async def _hand_out_reply(self, reply: Reply, num_bytes: int) -> None:
        """Give a reply with plain rows to its session, if that is not over."""
        if self._lanes is not None:
            self._lanes.answered((reply.session, reply.epoch, reply.position))
        plain = await self.coding.plain(reply, self._rules.num_taps(reply.session))
        if (session := self._sessions.get(reply.session)) is not None:
            session.take_reply(plain, came_down(reply, plain, num_bytes))

    def _hand_out(self, message: Message) -> None:
        """Give a message to its session; one that is over wants nothing any more."""
        match message:
            case Opened():
                if (session := self._sessions.get(message.session)) is not None:
                    session.take_opened(message.cached_tokens)
            case Fault():
                if (session := self._sessions.pop(message.session, None)) is not None:
                    self._outbox.discard(message.session)
                    session.fail(SessionRefusedError(message))
                if message.code is FaultCode.DRAINING:
                    self.is_leaving = True
                    self._on_leaving()
                self._note_if_deserted()
            case _:
                # Credit: the rules have taken it in, and a frame may be able to go now.
                self._changed.set()
