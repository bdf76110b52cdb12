"""A few frames of one session, and when their replies came."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from device_runtime.link.session import LinkSession
from device_runtime.session.actions import ComputeAndSend
from process.world import Clock
from wire.messages import Payload, Want

_NUM_SINGLES = 12
_NUM_LATE = 3

_SIZES = ((5, 5), (16, 3), (64, 2), (128, 2), (256, 1), (512, 1))
"""Rows of longer and longer frames, and how many of each there are."""

CHUNK_ROWS = 64
"""Of the frames that are sent early and late in the text."""

_MOST_FRAME_S = 1.5
"""No frame is sent that would be likely to take longer, computing and under way."""

_TRAIN_FRAMES = 4
_TRAIN_S = 1.0
_TRAIN_ROWS = 1024

_NUM_PAIRS = 3
_PAIR_ROWS = 128


@dataclass(frozen=True, slots=True)
class Trip:
    """A frame and its reply; bytes are those of the rows as they went, coded or not. The cloud's
    own times are its word."""

    num_rows: int
    position: int
    bytes_up: int
    bytes_down: int
    sent_s: float
    came_s: float
    queue_s: float
    compute_s: float
    batch_tokens: int
    """Rows of this device in the last step that computed it."""

    @property
    def is_split(self) -> bool:
        """Whether the cloud took several steps for it, as one does that has not seen much yet."""
        return self.num_rows > self.batch_tokens

    @property
    def mean_context(self) -> float:
        """How many positions a row of it looks at, on average."""
        return self.position + self.num_rows / 2

    @property
    def trip_s(self) -> float:
        """From the device and back to it."""
        return self.came_s - self.sent_s

    @property
    def arrived_s(self) -> float:
        """When the cloud had the frame, later by one way back."""
        return self.came_s - self.queue_s - self.compute_s

    @property
    def link_s(self) -> float:
        """There and back, without what the cloud did."""
        return self.arrived_s - self.sent_s


@dataclass(frozen=True, slots=True)
class Measured:
    """All trips of a session, by what they are for."""

    singles: Sequence[Trip]
    """One row each, of an empty text, all of it back."""
    grown: Sequence[Trip]
    """Longer and longer, behind one another in the text."""
    late: Sequence[Trip]
    """Single rows and, if there are such among the grown ones, chunks, behind all of these."""
    train: Sequence[Trip]
    """Sent right behind one another."""
    pairs: Sequence[tuple[Trip, Trip]]
    """The same rows twice: one row back, then all of them."""

    @property
    def num_rows(self) -> int:
        """What the cloud was given to compute."""
        paired = [trip for pair in self.pairs for trip in pair]
        trips = [*self.singles, *self.grown, *self.late, *self.train, *paired]
        return sum(trip.num_rows for trip in trips)


class Frames:
    """Sends the first of `num_rows` packed rows, as often as it is asked."""

    def __init__(self, session: LinkSession, rows: Payload, num_rows: int, clock: Clock) -> None:
        self.most_rows = num_rows
        self._session = session
        self._rows = memoryview(rows)
        self._row_bytes = len(rows) // num_rows
        self._clock = clock
        self._epoch = 0

    async def one(self, num_rows: int, position: int, want: Want = Want.LAST) -> Trip:
        """A frame on an idle link."""
        (trip,) = await self.train([(num_rows, position)], want)
        return trip

    async def train(
        self, frames: Sequence[tuple[int, int]], want: Want = Want.LAST
    ) -> Sequence[Trip]:
        """Frames `(rows, position)` right behind one another; there may be a few.

        Raises:
            CloudUnavailableError: the cloud is gone, or has ended the session.
        """
        self._epoch += 1
        sent = []
        before = self._session.carried
        for num_rows, position in frames:
            action = ComputeAndSend(self._epoch, position, (0,) * num_rows, want)
            sent_s = self._clock()
            bytes_up = await self._send(action, self._rows[: num_rows * self._row_bytes])
            sent.append((num_rows, position, bytes_up, sent_s))
        trips = [await self._trip(*each) for each in sent]
        saved_bytes = self._session.carried.since(before).saved_down // len(trips)
        return [replace(trip, bytes_down=trip.bytes_down - saved_bytes) for trip in trips]

    async def _send(self, action: ComputeAndSend, rows: Payload) -> int:
        """The bytes that the rows take on their way."""
        before = self._session.carried
        await self._session.send(action, rows)
        return len(rows) - self._session.carried.since(before).saved_up

    async def _trip(self, num_rows: int, position: int, bytes_up: int, sent_s: float) -> Trip:
        reply = await self._session.reply()
        return Trip(
            num_rows=num_rows,
            position=position,
            bytes_up=bytes_up,
            bytes_down=len(reply.payload),
            sent_s=sent_s,
            came_s=self._session.reply_came_s,
            queue_s=reply.queue_s,
            compute_s=reply.compute_s,
            batch_tokens=reply.batch_tokens,
        )


async def measure(frames: Frames, most_tokens: int) -> Measured:
    """The cheapest first; what would take long is left out. A text has at most `most_tokens`.

    Raises:
        CloudUnavailableError: the cloud is gone, or has ended the session.
    """
    singles = [await frames.one(1, 0, Want.ALL) for _ in range(_NUM_SINGLES)]
    # The first one also pays for what connection and engine do only once.
    singles = singles[1:]
    grown = await _grown(frames, most_tokens, singles[0].trip_s)
    end = grown[-1].position + grown[-1].num_rows if grown else 1
    late = [await frames.one(1, end - 1, Want.ALL) for _ in range(_NUM_LATE)]
    if any(trip.num_rows == CHUNK_ROWS for trip in grown) and end + CHUNK_ROWS <= most_tokens:
        late += [await frames.one(CHUNK_ROWS, end) for _ in range(_NUM_LATE)]
    longest = max([*singles, *grown], key=lambda trip: trip.num_rows)
    train = await _train(frames, most_tokens, longest)
    size = min(longest.num_rows, _PAIR_ROWS)
    pairs = [
        (await frames.one(size, 0, Want.LAST), await frames.one(size, 0, Want.ALL))
        for _ in range(_NUM_PAIRS)
    ]
    return Measured(singles, grown, late, train, pairs)


async def _grown(frames: Frames, most_tokens: int, single_s: float) -> list[Trip]:
    trips: list[Trip] = []
    position = 1
    for size, count in _SIZES:
        row_s = max(0.0, trips[-1].trip_s - single_s) / trips[-1].num_rows if trips else 0.0
        if size > frames.most_rows or single_s + row_s * size > _MOST_FRAME_S:
            break
        for _ in range(count):
            if position + size > most_tokens:
                return trips
            trips.append(await frames.one(size, position))
            position += size
    return trips


async def _train(frames: Frames, most_tokens: int, longest: Trip) -> Sequence[Trip]:
    """As many rows as link and cloud are likely to take a second for, whichever is slower."""
    row_s = max(longest.link_s, longest.compute_s, 1e-6) / longest.num_rows
    num_rows = min(int(_TRAIN_S / row_s), _TRAIN_ROWS, most_tokens)
    size = max(1, min(num_rows // _TRAIN_FRAMES, frames.most_rows))
    return await frames.train([(size, size * index) for index in range(_TRAIN_FRAMES)])
