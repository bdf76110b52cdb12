"""One session in the cloud, as its driver sees it: open, send rows, take replies, close."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.carried import Carried, saved_up
from device_runtime.link.coding import LinkCoding
from device_runtime.link.config import Patience
from device_runtime.link.outbox import Control
from device_runtime.session.actions import ComputeAndSend
from process.world import Clock
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Dtype, Fault, Open, Payload, Reply, SessionId, States, Trace

MAX_QUEUED_FRAMES = 2
"""Frames a session may have waiting: one is being written while the next is computed."""

MAX_UNANSWERED_FRAMES = 32
"""Frames a session may have without a reply, which bounds the replies that wait to be taken."""

_WAITS = 4.0
"""So many times the longest wait for a reply is no silence: its cloud is slow."""

_LONGEST_S = 900.0
"""But no longer: a frame may be lost on the way to a slow cloud too."""


@dataclass
class Slowness:
    """What is known of a cloud that takes long; of one link, over all of its connections."""

    longest_wait_s: float = 0.0
    num_silences: int = 0
    """In a row, without a reply of any session."""

    def patience_s(self, usual_s: float) -> float:
        """How long a session may be silent that usually may for `usual_s`."""
        known_s = max(usual_s, _WAITS * self.longest_wait_s) * 2.0 ** min(self.num_silences, 16)
        return max(usual_s, min(known_s, _LONGEST_S))

    def answered(self, wait_s: float) -> None:
        """A reply came, so long after its frame was queued."""
        self.longest_wait_s = max(self.longest_wait_s, wait_s)
        self.num_silences = 0


class LinkLostError(CloudUnavailableError):
    """There is no connection now; the link is making a new one."""


class CloudLeftError(LinkLostError):
    """The connection ended because its cloud stops: the sessions that it held are gone with it."""


class SessionSilentError(CloudUnavailableError):
    """The link lives and nothing was heard of one session for long.

    A frame of it was lost on the way, or the cloud computes for that long; opening the session
    again by its key is right for the one and harmless for the other (rules W17, W27).
    """


class SessionRefusedError(CloudUnavailableError):
    """The cloud ended one session, or did not let it begin; `code` says why.

    `may_retry` is set when the cloud said after how long it may be opened again.
    """

    def __init__(self, fault: Fault) -> None:
        details = f": {fault.message}" if fault.message else ""
        reason = f"the cloud refused the session, {fault.code.name}{details}"
        if fault.code is FaultCode.DRAINING:
            # As the link says it, which leaves such a cloud.
            reason = "the cloud is shutting down"
        if fault.code is FaultCode.QUOTA:
            reason = f"the cloud gives no more of this name's quota{details}"
        super().__init__(reason, retry_after_s=fault.retry_after_s or 1.0)
        self.code: FaultCode = fault.code
        self.may_retry = fault.retry_after_s > 0
        self.is_quota = fault.code is FaultCode.QUOTA


@dataclass(frozen=True, slots=True)
class SessionName:
    """What a session is found by from another connection, or by a later run of the program."""

    key: bytes
    max_tokens: int


class Carrier(Protocol):
    """The connection below a session; `num_events` counts all messages, both ways."""

    dtype: Dtype
    num_events: int
    takes_traces: bool
    coding: LinkCoding
    slowness: Slowness

    @property
    def is_writing(self) -> bool:
        """Whether a message is on its way into a socket."""
        ...

    @property
    def has_lanes(self) -> bool:
        """Whether frames can go in pieces now."""
        ...

    def put(self, item: Control | States, is_verify: bool = False) -> None:
        """Queue a message; of rows `take_sent` tells once they are written."""
        ...

    def discard_older(self, session: SessionId, epoch: int) -> int:
        """Drop queued rows of epochs before this one; how many frames that were."""
        ...

    def close_session(self, session: SessionId) -> None:
        """Forget a session and tell the cloud."""
        ...

    def abandon_session(self, session: SessionId) -> None:
        """Forget a session that the cloud is to keep."""
        ...

    def give_up(self, reason: str) -> None:
        """End the connection, and with it all of its sessions."""
        ...

    def give_up_lanes(self, reason: str) -> None:
        """The same, and have no lanes for a while."""
        ...


class LinkSession:
    """Used by one task at a time. Any wait may raise `CloudUnavailableError`.

    `request` is what was asked of the cloud; its key finds the session again from another socket.
    """

    def __init__(self, request: Open, carrier: Carrier, patience: Patience, clock: Clock) -> None:
        self.session = request.session
        self.name = SessionName(request.key, request.max_tokens)
        self.carried = Carried()
        """What was sent and received until now."""
        self._carrier = carrier
        self._patience = patience
        self._clock = clock
        self._num_cached_tokens: int | None = None
        self._replies: deque[tuple[Reply, float]] = deque()
        self.reply_came_s = 0.0
        """When the reply that was taken last had come, by the monotonic clock."""
        self._num_queued = 0
        self._unanswered: deque[tuple[int, int]] = deque()
        self._asked_s: deque[float] = deque()
        self._answered: set[tuple[int, int]] = set()
        """Frames by epoch and position: those without a reply, and of this epoch those with one."""
        self._epoch = 0
        self.is_in_pieces = False
        """Whether its rows go in pieces over lanes: all without a reply, of one epoch, or none."""
        self._failure: CloudUnavailableError | None = None
        self._is_closed = False
        self._heard_s = 0.0
        """When anything last happened to it, by the loop's clock, as `_asked_s` has it."""
        self._changed = asyncio.Event()

    @property
    def dtype(self) -> Dtype:
        """The number format that rows are packed in."""
        return self._carrier.dtype

    @property
    def is_live(self) -> bool:
        """Whether it may still be used, as far as this side knows."""
        return self._failure is None and not self._is_closed

    @property
    def is_lost(self) -> bool:
        """Whether it is of no use here and the cloud may hold it still, to be opened by its key."""
        failure = self._failure
        return isinstance(failure, LinkLostError | SessionSilentError) and not isinstance(
            failure, CloudLeftError
        )

    @property
    def is_opened(self) -> bool:
        """Whether the cloud has had the session, whatever became of it."""
        return self._num_cached_tokens is not None

    @property
    def num_cached_tokens(self) -> int | None:
        """The positions that the cloud held when it was opened; None before it has said so."""
        return self._num_cached_tokens

    @property
    def num_waiting_replies(self) -> int:
        """Replies that have come and were not yet taken."""
        return len(self._replies)

    async def opened(self) -> int:
        """Wait until the cloud has the session; the number of positions it holds.

        A session that was lost right after it had been opened was opened: the next wait tells.
        """
        try:
            await self._until(lambda: self.is_opened, self._patience.open_s)
        except CloudUnavailableError:
            if not self.is_opened:
                raise
        assert self._num_cached_tokens is not None
        return self._num_cached_tokens

    async def send(self, action: ComputeAndSend, payload: Payload) -> None:
        """Queue an action's rows, packed, once there is room; returns before they are written.

        A higher epoch than before ends what is under way of the older ones.
        """
        if action.epoch != self._epoch:
            self._begin_epoch(action.epoch)
        num_rows = len(action.token_ids)
        coded, codec = await self._carrier.coding.coded(payload, num_rows, action.is_verify)
        await self._until(self._may_queue, self._patience.reply_s)
        if not self._unanswered:
            self.is_in_pieces = self._carrier.has_lanes and not action.is_verify
        states = States(
            session=self.session,
            epoch=action.epoch,
            position=action.position,
            num_rows=num_rows,
            dtype=self.dtype,
            codec=codec,
            want=action.want,
            payload=coded,
        )
        self.carried += saved_up(payload, coded, codec, num_rows)
        self._num_queued += 1
        self._unanswered.append((action.epoch, action.position))
        self._asked_s.append(asyncio.get_running_loop().time())
        self._carrier.put(states, action.is_verify)

    def trace(self, trace_id: bytes) -> None:
        """Tell the cloud which request the session works for from here on, if it can be told."""
        if trace_id and self._carrier.takes_traces and self.is_live:
            self._carrier.put(Trace(self.session, trace_id))

    async def reply(self) -> Reply:
        """Wait for the next reply, in the order of the frames."""
        await self._until(lambda: bool(self._replies), self._patience.reply_s)
        reply, self.reply_came_s = self._replies.popleft()
        return reply

    def close(self) -> None:
        """End the session on both sides; never waits, and repeats are harmless."""
        if not self._is_closed:
            self._is_closed = True
            self._carrier.close_session(self.session)

    def abandon(self) -> None:
        """Use it no more, here; the cloud keeps it, to be opened again by its key."""
        if not self._is_closed:
            self._is_closed = True
            self._carrier.abandon_session(self.session)

    def continues(self, lost: "LinkSession") -> None:
        """Take over what another has counted: it is the same session in the cloud."""
        self.carried = lost.carried

    def take_opened(self, cached_tokens: int) -> None:
        """The cloud has the session."""
        self._num_cached_tokens = cached_tokens
        self._happened()

    def take_sent(self, num_bytes: int) -> None:
        """The oldest queued frame was written."""
        self.carried += Carried(up=num_bytes)
        self._num_queued -= 1
        self._happened()

    def take_reply(self, reply: Reply, carried: Carried) -> None:
        """A reply came; one that came before, or is of an epoch that is over, changes nothing.

        Its rows are RAW by now; `carried` is what its frame did. A repeated frame is answered
        again, wherever it was repeated (rules W17, W25).

        Raises:
            RemoteProtocolError: every frame already has its reply.
        """
        self.carried += carried
        frame = (reply.epoch, reply.position)
        if not self._unanswered or frame != self._unanswered[0]:
            if frame in self._answered or reply.epoch < self._epoch:
                return
            if frame in self._unanswered:
                # Frames run in order: the replies before this one were lost on the way.
                self.fail(SessionSilentError("a reply was lost on the way"))
                return
            if not self._unanswered:
                reason = f"expected no reply, got one for position {reply.position}"
                raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
        self._answered.add(self._unanswered.popleft())
        self._replies.append((reply, self._clock()))
        self._happened()
        self._carrier.slowness.answered(self._heard_s - self._asked_s.popleft())

    def fail(self, failure: CloudUnavailableError) -> None:
        """The session is over; whoever waits for it learns why."""
        self._failure = failure
        self._happened()

    def _begin_epoch(self, epoch: int) -> None:
        """Forget frames of older epochs, whose replies nobody wants (rules W18, W25)."""
        self._epoch = epoch
        self._answered.clear()
        self._num_queued -= self._carrier.discard_older(self.session, epoch)
        self._replies = deque(each for each in self._replies if each[0].epoch >= epoch)
        while self._unanswered and self._unanswered[0][0] < epoch:
            self._unanswered.popleft()
            self._asked_s.popleft()

    def _may_queue(self) -> bool:
        num_open = len(self._unanswered) + len(self._replies)
        return self._num_queued < MAX_QUEUED_FRAMES and num_open < MAX_UNANSWERED_FRAMES

    def _happened(self) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        self._changed.set()

    async def _until(self, condition: Callable[[], bool], usual_s: float) -> None:
        """Wait until `condition` is true, for as long as the link lives.

        A session of which nothing is heard for `usual_s`, or longer after earlier silences and with
        a cloud that is known to be slow, is silent. While something is written the socket's own
        pulse is what tells.
        """
        if self._failure is None and condition():
            return None
        clock = asyncio.get_running_loop().time
        since_s, num_link_events = clock(), self._carrier.num_events
        while True:
            patience_s = self._carrier.slowness.patience_s(usual_s)
            try:
                async with asyncio.timeout_at(max(since_s, self._heard_s) + patience_s):
                    return await self._until_now(condition)
            except TimeoutError as error:
                if clock() < self._heard_s + patience_s:
                    continue
                if not self._carrier.is_writing:
                    self._note_silence(num_link_events, patience_s, error)
                since_s, num_link_events = clock(), self._carrier.num_events

    def _note_silence(self, num_link_events: int, patience_s: float, error: TimeoutError) -> None:
        """Nothing was heard for so long.

        While rows wait for credit or behind those of others, what happens on the link counts as
        well; when nothing does, credit was lost on the way and the whole connection is over.

        Raises:
            SessionSilentError: nothing waits on this side.
        """
        if self._num_queued == 0:
            self._carrier.slowness.num_silences += 1
            reason = f"the cloud did not answer within {patience_s:g} s"
            if self.is_in_pieces and self._unanswered:
                # A piece may be lost, and then all that goes in pieces waits for it.
                self._carrier.give_up_lanes(reason)
            raise SessionSilentError(reason) from error
        if self._carrier.num_events == num_link_events:
            self._carrier.slowness.num_silences += 1
            self._carrier.give_up(f"it took no rows for {patience_s:g} s")

    async def _until_now(self, condition: Callable[[], bool]) -> None:
        while True:
            if self._failure is not None:
                raise self._failure
            if condition():
                return
            self._changed.clear()
            await self._changed.wait()
