"""Whatever a network does with whole frames, the ids are the undisturbed ones.

The whole device, the cloud's real core, and a network in memory between them, in jumping time.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_runtime.generation.request import SamplingParams
from tests.support.fake_runtime import PROMPT, bench, expected, request
from tests.support.memory_cloud import MemoryCloud
from tests.support.memory_link import MemoryNetwork
from wire.codec import decode
from wire.messages import Hello, Open

pytestmark = pytest.mark.event_loop("virtual")

REPETITIVE = SamplingParams(seed=7, logit_bias={3: 30.0, 5: 31.0})
WANTED = request(PROMPT, 24, sampling=REPETITIVE)

NUM_FRAMES = 16
"""About as many go up, and more come down, in an undisturbed answer."""

places = st.tuples(st.booleans(), st.integers(0, NUM_FRAMES - 1))


@dataclass
class Mischief:
    """What happens to the n-th frame of a direction: it comes twice, again later, or not at all.

    What comes later comes on its own connection: none hands a frame on to the next.
    """

    twice: set[tuple[bool, int]] = field(default_factory=set)
    later: dict[tuple[bool, int], int] = field(default_factory=dict)
    lost: set[tuple[bool, int]] = field(default_factory=set)
    cut: set[tuple[bool, int]] = field(default_factory=set)
    num_done: int = 0
    num_connections: int = 0

    def play(self, network: MemoryNetwork) -> None:
        sent: dict[bool, list[tuple[int, bytes]]] = {True: [], False: []}
        num_begun = 1

        def passes(is_up: bool, frame: bytes) -> list[bytes]:
            nonlocal num_begun
            num_begun += isinstance(decode(frame), Hello)
            place = (is_up, len(sent[is_up]))
            sent[is_up].append((num_begun, frame))
            late = [
                sent[up][index][1]
                for (up, index), pause in self.later.items()
                if up == is_up and index + pause == place[1] and sent[up][index][0] == num_begun
            ]
            self.num_done += len(late) + any(place in kind for kind in self.kinds)
            if place in self.cut:
                network.cut()
            # An Open that is lost looks as one that was refused, and that is told.
            is_lost = place in self.lost and not isinstance(decode(frame), Open)
            is_gone = is_lost or place in self.cut
            copies = [] if is_gone else [frame] * (1 + (place in self.twice))
            return [*copies, *late]

        network.passes = passes

    @property
    def kinds(self) -> tuple[set[tuple[bool, int]], ...]:
        return (self.twice, self.lost, self.cut)


async def check(mischief: Mischief, **device: Any) -> int:
    """An answer under it is the undisturbed one; how often it struck."""

    # Three lost handshakes in a row are 30 s of silence: how long a device waits is another's test.
    settings = {"chunking": "fixed", "chunk_tokens": 6, "drafter": "ngram"}
    settings |= {"reconnect_timeout_s": 600.0} | device
    async with bench(MemoryCloud(), **settings) as it:
        mischief.play(it.network)
        assert await it.ids(WANTED) == expected(WANTED)
        mischief.num_connections = it.link.num_connections
    return mischief.num_done


@pytest.mark.parametrize("is_up", [True, False])
async def test_all_frames_of_a_session_may_come_twice(is_up: bool) -> None:
    """But its Open: that costs the connection, which is made anew."""
    mischief = Mischief(twice={(is_up, index) for index in range(1, 100)})
    assert await check(mischief) > 12
    assert mischief.num_connections == 1


@settings(max_examples=25, deadline=None)
@given(twice=st.sets(places, max_size=12))
async def test_frames_that_come_twice_change_nothing(twice: set[tuple[bool, int]]) -> None:
    await check(Mischief(twice=twice))


@settings(max_examples=25, deadline=None)
@given(later=st.dictionaries(places, st.integers(1, 6), max_size=4))
async def test_frames_that_come_again_later_change_nothing(
    later: dict[tuple[bool, int], int],
) -> None:
    await check(Mischief(later=later))


@settings(max_examples=25, deadline=None)
@given(
    twice=st.sets(places, max_size=3),
    later=st.dictionaries(places, st.integers(1, 6), max_size=2),
    lost=st.sets(places, max_size=3),
    cut=st.sets(places, max_size=3),
)
@example(twice=set(), later={}, lost={(True, 1), (False, 0)}, cut=set())
@example(twice=set(), later={}, lost={(False, 1), (True, 1), (False, 0)}, cut={(True, 0)})
@example(twice=set(), later={(True, 1): 2}, lost={(False, 1), (True, 7), (False, 11)}, cut=set())
async def test_lost_frames_and_connections_change_nothing_either(
    twice: set[tuple[bool, int]],
    later: dict[tuple[bool, int], int],
    lost: set[tuple[bool, int]],
    cut: set[tuple[bool, int]],
) -> None:
    await check(Mischief(twice, later, lost, cut))


async def test_mischief_is_done() -> None:
    assert await check(Mischief(twice={(True, 3), (False, 9)}, cut={(True, 6)})) == 3
