"""How much of the event loop one device may have while there are others."""

import asyncio
import itertools

import pytest

from cloud_server.core.actions import Identity
from cloud_server.daemon.turns import BURST_S, LIMITED_COST, LIMITED_S, MAX_S, Shares, Turns, cost_s
from wire.codec import encode
from wire.messages import Close, Codec, Dtype, Open, States, Want

HERE, THERE = Identity("here"), Identity("there")


class Clock:
    """Time that passes when a link works or pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _used_share(links: list[tuple[Identity, float]], share: float, seconds: float = 20.0) -> float:
    """The part of the time that the first link, always ready, works; the others say nothing."""
    clock = Clock()
    shares = Shares(share, clock)
    greedy, *_ = [(identity, shares.enter(identity)) for identity, _ in links]
    worked_s = 0.0
    while clock.now < seconds:
        clock.now += MAX_S
        worked_s += MAX_S
        clock.now += shares.pause_s(*greedy, MAX_S)
    return worked_s / clock.now


def test_who_is_alone_may_have_all_of_it():
    assert _used_share([(HERE, 1.0)], share=0.25) == 1.0


@pytest.mark.parametrize("other", [HERE, THERE])
def test_who_floods_beside_others_has_a_share(other):
    used = _used_share([(HERE, 1.0), (other, 0.0)], share=0.25)
    assert used == pytest.approx(0.25, abs=0.02)


def test_who_has_met_a_quota_has_a_quarter_of_his_share_for_a_while():
    clock = Clock()
    shares = Shares(0.25, clock)
    own = shares.enter(HERE)
    shares.enter(THERE)
    worked_s = {True: 0.0, False: 0.0}
    for begin_s, is_limited in ((0.0, True), (LIMITED_S + 2, False)):
        clock.now = begin_s
        if is_limited:
            shares.limited(HERE)
        while clock.now < begin_s + LIMITED_S:
            clock.now += MAX_S
            worked_s[is_limited] += MAX_S
            clock.now += shares.pause_s(HERE, own, MAX_S)
    assert worked_s[True] / LIMITED_S == pytest.approx(0.25 / LIMITED_COST, abs=0.02)
    assert worked_s[False] / LIMITED_S == pytest.approx(0.25, abs=0.02)


def test_many_links_that_meet_a_quota_at_once_come_back_one_after_the_other():
    clock = Clock()
    shares = Shares(0.25, clock)
    links = [shares.enter(HERE) for _ in range(50)]
    shares.enter(THERE)
    shares.limited(HERE)
    back_s = sorted(shares.pause_s(HERE, own, 0.0025) for own in links)
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(back_s)]
    assert sum(gap_s == 0 for gap_s in gaps_s) <= 1
    assert back_s[-1] < 3


def test_the_share_may_be_given_up():
    assert _used_share([(HERE, 1.0), (THERE, 0.0)], share=1.0) == 1.0


def test_links_of_one_identity_share_its_part():
    clock = Clock()
    shares = Shares(0.25, clock)
    links = [shares.enter(HERE) for _ in range(10)]
    shares.enter(THERE)
    free_s = [0.0] * len(links)
    worked_s = 0.0
    while clock.now < 20:
        ready = min(range(len(links)), key=lambda index: free_s[index])
        clock.now = max(clock.now, free_s[ready]) + MAX_S
        worked_s += MAX_S
        free_s[ready] = clock.now + shares.pause_s(HERE, links[ready], MAX_S)
    assert worked_s / clock.now == pytest.approx(0.25, abs=0.03)


def test_a_burst_of_verifications_waits_for_nobody():
    clock = Clock()
    shares = Shares(0.25, clock)
    own = shares.enter(HERE)
    shares.enter(THERE)
    for _ in range(50):
        clock.now += 1.0
        pauses = [shares.pause_s(HERE, own, MAX_S) for _ in range(int(BURST_S / MAX_S) - 1)]
        assert max(pauses) == 0.0


async def test_frames_that_are_there_let_others_in():
    turns = Turns(Shares(0.25, asyncio.get_running_loop().time), HERE)
    num_turns = 0

    async def other() -> None:
        nonlocal num_turns
        while True:
            num_turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(1000):
        await turns.take(0.00001)
    assert num_turns >= 1000 // 32
    task.cancel()
    turns.end()


def test_opening_and_closing_count_for_what_they_cost_later():
    rows = States(1, 0, 0, 1, Dtype.FP32, Codec.RAW, Want.ALL, bytes(4))
    assert cost_s(encode(rows), 0.001) == 0.001
    assert cost_s("text", 0.001) == 0.001
    for message in (Open(1, bytes(16), 10), Close(1)):
        assert cost_s(encode(message), 0.001) > 0.0015


def test_links_that_ended_leave_nothing_behind():
    shares = Shares(0.25, Clock())
    for _ in range(3):
        turns = [Turns(shares, identity) for identity in (HERE, HERE, THERE)]
        for each in turns:
            each.end()
    assert shares.num_links == {}
    assert not shares._allowances
