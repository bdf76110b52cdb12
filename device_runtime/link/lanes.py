"""Further sockets of one connection: opened beside it, and given the pieces of long frames.

Nothing waits for a lane to be opened, and a lane that is refused or breaks while it carries nothing
changes nothing. What broke under what it carried is its owner's to know (`on_broken`): the cloud
may have a part of a frame, and nobody knows which (rule W47).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import aiohttp

from device_runtime.link.config import CLOSE_S, Patience
from device_runtime.link.dialing import Dial
from device_runtime.link.lane_count import LinkSize, Pace, useful_lanes
from process.sockets.heartbeat import until_silent
from process.sockets.socket import Socket
from process.sockets.windows import FIRST_WINDOW_SEGMENTS, SEGMENT_BYTES, next_taker
from process.world import Clock
from wire.codec import decode, encode
from wire.errors import RemoteProtocolError
from wire.lanes import PIECE_OVERHEAD_BYTES, Cutter
from wire.messages import Fault, Join, Joined

_log = logging.getLogger(__name__)

_LOOK_S = 0.001
"""So often it is looked at which lane takes more."""

_LEAST_BYTES = 4096
"""Less room than this is not worth a piece; in slow start so much comes within two looks."""

_CARE_S = 1.0
"""So often the number of lanes is looked at."""

_MAX_UNANSWERED = 1024
"""Frames whose replies are waited for; of some they never come, since their session was closed."""

_SILENCES = 3.0
"""Times the silence that the first socket may keep: what ends that one ends its lanes too, and a
device with many is not to ping all day."""

_RETRY_S = 30.0
_LONGEST_RETRY_S = 3600.0
"""After a lane that could not be opened: twice as long each time that none could be, up to this."""


@dataclass(frozen=True, slots=True)
class LanePlan:
    """How a connection's lanes are made."""

    dial: Dial
    join: Join
    most: int
    """Lanes at once."""
    is_fixed: bool
    """Whether there are always so many, worth it or not."""
    frame_bytes: int
    """Of the longest frame that is sent."""
    size: Callable[[], LinkSize]
    """What is known of the link now."""


class Lane:
    """One further socket. `last_sequence` is that of the last frame of which it got a piece."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.last_sequence = -1

    @property
    def is_worn(self) -> bool:
        """Whether its window is smaller than that of a new one, with nothing under way."""
        window = self.socket.window()
        least_bytes = FIRST_WINDOW_SEGMENTS * SEGMENT_BYTES // 2
        return window.num_under_way == 0 and window.num_bytes < least_bytes


class Lanes:
    """Those of one connection; its owner runs `run` beside it, and sends frames with `send`.

    `on_broken` is told when one broke whose pieces may not have come.
    """

    def __init__(
        self, plan: LanePlan, patience: Patience, clock: Clock, on_broken: Callable[[], None]
    ) -> None:
        self._plan = plan
        self._patience = patience
        self._clock = clock
        self._on_broken = on_broken
        self._lanes: list[Lane] = []
        self._pace = Pace()
        self._num_frames = 0
        self._num_arrived = 0
        self._sequences: dict[Hashable, int] = {}
        """Of frames without a reply."""
        self._told: set[str] = set()
        self._num_refused = 0
        """In a row."""

    def __len__(self) -> int:
        return len(self._lanes)

    def answered(self, key: Hashable) -> None:
        """The cloud has answered this frame; if it came in pieces, all before it have come too."""
        sequence = self._sequences.pop(key, -1)
        self._num_arrived = max(self._num_arrived, sequence + 1)

    async def run(self) -> None:
        """Open lanes while they are useful, and replace those that are worn; until cancelled."""
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                for _ in range(self._num_wanted() - len(tasks)):
                    task = asyncio.create_task(self._keep_one())
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.sleep(_CARE_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _num_wanted(self) -> int:
        if self._plan.is_fixed:
            return self._plan.most
        return min(self._plan.most, useful_lanes(self._plan.size(), self._plan.frame_bytes))

    async def send(self, frame: bytes, key: Hashable) -> None:
        """Give a frame to the lanes, in pieces, as fast as they take them.

        Raises:
            ConnectionError: a lane broke under it, or none is left.
        """
        cutter = Cutter(self._num_frames, frame)
        if len(self._sequences) >= _MAX_UNANSWERED:
            del self._sequences[next(iter(self._sequences))]
        self._sequences[key] = self._num_frames
        self._num_frames += 1
        while cutter.num_left:
            if not self._lanes:
                raise ConnectionResetError("no lane is left")
            taker = self._next_taker(min(cutter.num_left + PIECE_OVERHEAD_BYTES, _LEAST_BYTES))
            if taker is None:
                await asyncio.sleep(_LOOK_S)
                continue
            lane, room_bytes = taker
            lane.last_sequence = self._num_frames - 1
            piece = encode(cutter.cut(room_bytes - PIECE_OVERHEAD_BYTES))
            self._pace.sent(len(piece), self._plan.size(), self._clock())
            try:
                await lane.socket.send(piece)
            except ConnectionError:
                self._on_broken()
                raise

    def _next_taker(self, least_bytes: int) -> tuple[Lane, int] | None:
        size = self._plan.size()
        at_once = self._pace.most_bytes(size, self._clock())
        windows = [lane.socket.window() for lane in self._lanes]
        if at_once == 0:
            # Of the largest window, what the buffer before the link holds is never held back.
            at_once = size.product_bytes - sum(window.num_under_way for window in windows)
        taker = next_taker(windows, least_bytes, size.num_bytes)
        if taker is None or (at_once is not None and at_once < least_bytes):
            return None
        index, room_bytes = taker
        return self._lanes[index], room_bytes if at_once is None else min(room_bytes, at_once)

    async def _keep_one(self) -> None:
        """Open a lane and keep it until it breaks or is worn; then, or if it is refused, rest."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(self._patience.connect_s):
                    socket = await stack.enter_async_context(self._plan.dial())
                    stack.push_async_callback(_close, socket)
                    await self._join(socket)
                self._num_refused = 0
                if await self._keep(Lane(socket)):
                    return
        except _RefusedError as refused:
            self._say(f"the cloud takes no further connection of this device: {refused}")
        except (RemoteProtocolError, aiohttp.ClientError, OSError, TimeoutError) as error:
            self._say(f"no further connection to the cloud: {type(error).__name__}")
        doublings = min(16, self._num_refused // self._plan.most)
        self._num_refused += 1
        await asyncio.sleep(min(_LONGEST_RETRY_S, _RETRY_S * 2.0**doublings))

    def _say(self, words: str) -> None:
        """Once on each connection, since it is tried again and again."""
        if words not in self._told:
            self._told.add(words)
            _log.info("%s", words)

    async def _join(self, socket: Socket) -> None:
        await socket.send(encode(self._plan.join))
        frame = await socket.receive()
        answer = decode(frame) if isinstance(frame, bytes) else None
        if isinstance(answer, Fault):
            raise _RefusedError(answer.code.name)
        if not isinstance(answer, Joined):
            raise _RefusedError("it does not answer as it should")

    async def _keep(self, lane: Lane) -> bool:
        """Let a lane carry pieces until it ends; whether it was worn."""
        self._lanes.append(lane)
        ends = (self._until_told(lane), self._until_silent(lane), self._until_worn(lane))
        tasks: Sequence[asyncio.Task[bool]] = [asyncio.create_task(end) for end in ends]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            is_worn = all(task.result() for task in done)
        finally:
            self._lanes.remove(lane)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not is_worn and lane.last_sequence >= self._num_arrived:
            self._on_broken()
        return is_worn

    async def _until_told(self, lane: Lane) -> bool:
        """A cloud says nothing on a lane but that it is over, or closes it."""
        with contextlib.suppress(ConnectionError):
            await lane.socket.receive()
        return False

    async def _until_silent(self, lane: Lane) -> bool:
        await until_silent(lane.socket, _SILENCES * self._patience.heartbeat_s, self._clock)
        lane.socket.abort()
        return False

    async def _until_worn(self, lane: Lane) -> bool:
        """Not while it carries anything."""
        while True:
            await asyncio.sleep(_CARE_S)
            if lane.last_sequence < self._num_arrived and lane.is_worn:
                return True


class _RefusedError(Exception):
    """The cloud does not take the socket as a lane; the words say why."""


async def _close(socket: Socket) -> None:
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(CLOSE_S):
            await socket.close()
