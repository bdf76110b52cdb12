"""Further sockets of one connection: opened beside it, and given the pieces of long frames.

Nothing waits for a lane to be opened, and a lane that is refused or breaks while it carries nothing
changes nothing. What broke under what it carried is its owner's to know (`on_broken`): the cloud
may have a part of a frame, and nobody knows which (rule W47).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import aiohttp

from device_runtime.link.config import CLOSE_S, Patience
from device_runtime.link.dialing import Dial
from device_runtime.link.lane_count import Bursts, LinkSize, Openings, useful_lanes
from device_runtime.link.pace import Pace
from process.sockets.heartbeat import until_silent
from process.sockets.socket import Socket
from process.sockets.windows import FIRST_WINDOW_BYTES, Window, next_taker
from process.world import Clock
from wire.codec import decode, encode
from wire.errors import RemoteProtocolError
from wire.lanes import PIECE_OVERHEAD_BYTES, Cutter
from wire.messages import Fault, Join, Joined

_log = logging.getLogger(__name__)

_LOOK_S = 0.001
"""So often it is looked at which lane takes more; of 64 one look takes about as long."""

_LEAST_BYTES = 4096
"""Less room than this is not worth a piece; in slow start so much comes within two looks."""

_CARE_S = 1.0
_SOON_S = 0.25
"""So often the number of lanes is looked at, and sooner while some are being opened."""

_MAX_UNANSWERED = 1024
"""Frames whose replies are waited for; of some they never come, since their session was closed."""

_SILENCES = 3.0
"""Times the silence that the first socket may keep: what ends that one ends its lanes too, and a
device with many is not to ping all day."""

_SPARE_S = 600.0
"""A lane too many is closed once it has carried nothing for so long."""


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
    why: Callable[[Exception], str]
    """What an error is called, for users."""


class Lane:
    """One further socket. `last_sequence` is that of the last frame of which it got a piece, and
    `used_s` when that was, or when it was opened. One that is spare is closed when it may be, and
    one that is `ending` as soon as there is another: it is being replaced."""

    def __init__(self, socket: Socket, now: float) -> None:
        self.socket = socket
        self.last_sequence = -1
        self.used_s = now
        self.is_spare = False
        self.is_ending = False

    @property
    def is_worn(self) -> bool:
        """Whether its window is smaller than that of a new one, with nothing under way."""
        window = self.socket.window()
        return window.num_under_way == 0 and window.num_bytes < FIRST_WINDOW_BYTES // 2


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
        self._bursts = Bursts()
        self._openings = Openings()
        self._is_sending = False
        self._num_frames = 0
        self._num_arrived = 0
        self._sequences: dict[Hashable, int] = {}
        """Of frames without a reply."""
        self._told: set[str] = set()

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
                self._mark_spare()
                for _ in range(self._num_to_open(len(tasks) - len(self._lanes))):
                    task = asyncio.create_task(self._keep_one())
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.sleep(_CARE_S if len(tasks) == len(self._lanes) else _SOON_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _num_wanted(self) -> int:
        if self._plan.is_fixed:
            return self._plan.most
        burst_bytes = self._bursts.longest(self._clock())
        useful = useful_lanes(self._plan.size(), self._plan.frame_bytes, burst_bytes)
        return min(self._plan.most, useful)

    def _num_to_open(self, num_opening: int) -> int:
        num_lanes = sum(not lane.is_ending for lane in self._lanes)
        most = self._openings.most(num_lanes, self._clock())
        return min(self._num_wanted() - num_lanes, most) - num_opening

    def _mark_spare(self) -> None:
        """Of lanes that carried nothing for long, those that are more than wanted."""
        num_spare = max(0, len(self._lanes) - self._num_wanted())
        least_s = self._clock() - _SPARE_S
        unused = [lane for lane in self._lanes if lane.used_s < least_s]
        for lane in unused[:num_spare]:
            lane.is_spare = True

    async def send(self, frame: bytes, key: Hashable) -> None:
        """Give a frame to the lanes, in pieces, as fast as they take them.

        Raises:
            ConnectionError: a lane broke under it, or none is left.
        """
        cutter = Cutter(self._num_frames, frame)
        self._bursts.sent(len(frame), self._clock(), is_all_answered=not self._sequences)
        if len(self._sequences) >= _MAX_UNANSWERED:
            del self._sequences[next(iter(self._sequences))]
        self._sequences[key] = self._num_frames
        self._num_frames += 1
        self._is_sending = True
        try:
            while cutter.num_left:
                if not self._lanes:
                    raise ConnectionResetError("no lane is left")
                # What was handed over goes out while others have their turn.
                await asyncio.sleep(0.0 if await self._deal(cutter) else _LOOK_S)
        finally:
            self._is_sending = False

    async def _deal(self, cutter: Cutter) -> bool:
        """Give pieces to the lanes by one look at all of their windows; False if none takes any.

        Raises:
            ConnectionError: a lane broke under them.
        """
        lanes, size, looked_s = tuple(self._lanes), self._plan.size(), self._clock()
        windows = [lane.socket.window() for lane in lanes]
        has_given = False
        while cutter.num_left and self._clock() - looked_s <= _LOOK_S:
            least_bytes = min(cutter.num_left + PIECE_OVERHEAD_BYTES, _LEAST_BYTES)
            taker = self._next_taker(windows, size, least_bytes)
            if taker is None or lanes[taker[0]] not in self._lanes:
                break
            index, room_bytes = taker
            piece = encode(cutter.cut(room_bytes - PIECE_OVERHEAD_BYTES))
            self._pace.sent(len(piece), size, self._clock())
            await self._give(lanes[index], piece)
            under_way = windows[index].num_under_way + len(piece)
            windows[index] = replace(windows[index], num_under_way=under_way)
            has_given = True
        return has_given

    async def _give(self, lane: Lane, piece: bytes) -> None:
        lane.last_sequence = self._num_frames - 1
        lane.used_s = self._clock()
        try:
            await lane.socket.send(piece)
        except ConnectionError:
            self._on_broken()
            raise

    def _next_taker(
        self, windows: Sequence[Window], size: LinkSize, least_bytes: int
    ) -> tuple[int, int] | None:
        at_once = self._pace.most_bytes(size, self._clock())
        if at_once == 0:
            # What half of the buffer before the link holds is never held back.
            at_once = size.product_bytes // 2 - sum(window.num_under_way for window in windows)
        taker = next_taker(windows, least_bytes, size.num_bytes)
        if taker is None or (at_once is not None and at_once < least_bytes):
            return None
        index, room_bytes = taker
        return index, room_bytes if at_once is None else min(room_bytes, at_once)

    async def _keep_one(self) -> None:
        """Open a lane and keep it until it breaks, or is not to be kept."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(self._patience.connect_s):
                    socket = await stack.enter_async_context(self._plan.dial())
                    stack.push_async_callback(_close, socket)
                    await self._join(socket)
                if await self._keep(Lane(socket, self._clock())):
                    return
        except _RefusedError as refused:
            self._say(f"the cloud takes no further connection of this device: {refused}")
        except (RemoteProtocolError, aiohttp.ClientError, OSError, TimeoutError) as error:
            self._say(f"no further connection to the cloud: {self._plan.why(error)}")
        self._openings.failed(len(self._lanes), self._clock())

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
        """Let a lane carry pieces until it ends; whether that was done here."""
        self._lanes.append(lane)
        self._openings.opened(len(self._lanes), self._clock())
        ends = (self._until_told(lane), self._until_silent(lane), self._until_done(lane))
        tasks: Sequence[asyncio.Task[bool]] = [asyncio.create_task(end) for end in ends]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            is_done = all(task.result() for task in done)
        finally:
            self._lanes.remove(lane)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not is_done and lane.last_sequence >= self._num_arrived:
            self._on_broken()
        return is_done

    async def _until_told(self, lane: Lane) -> bool:
        """A cloud says nothing on a lane but that it is over, or closes it."""
        with contextlib.suppress(ConnectionError):
            await lane.socket.receive()
        return False

    async def _until_silent(self, lane: Lane) -> bool:
        await until_silent(lane.socket, _SILENCES * self._patience.heartbeat_s, self._clock)
        lane.socket.abort()
        return False

    async def _until_done(self, lane: Lane) -> bool:
        """Worn, or spare, and it carries nothing; and there is another, if a frame needs one."""
        while True:
            await asyncio.sleep(_CARE_S)
            if lane.last_sequence >= self._num_arrived:
                continue
            lane.is_ending |= lane.is_worn or lane.is_spare
            has_other = any(not other.is_ending for other in self._lanes)
            if lane.is_ending and (has_other or not self._is_sending):
                return True


class _RefusedError(Exception):
    """The cloud does not take the socket as a lane; the words say why."""


async def _close(socket: Socket) -> None:
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(CLOSE_S):
            await socket.close()
