"""What a step holds: verifications first, the budget kept, devices alike, nobody left waiting."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.core.actions import ConnectionId, Identity, Owner, SequenceHandle
from cloud_server.core.scheduling.scheduler import FairQueue, Scheduler
from tests.support.examples import at_most

VERIFY = 4
BUDGET = 32
QUANTUM = BUDGET // 4
"""Rows of a turn of prefill."""


@dataclass(frozen=True)
class Offer:
    owner: Owner
    handle: SequenceHandle
    num_rows: int
    is_verification: bool


def device(number: int, identity: str | None = None) -> Owner:
    """A connection, of somebody of its own unless it is said whose."""
    return Owner(Identity(identity or f"device {number}"), ConnectionId(number))


@st.composite
def offers(draw: st.DrawFn) -> list[Offer]:
    """Up to twelve sequences of up to four devices, each with a frame waiting."""
    drawn = []
    for handle in range(draw(st.integers(1, 12))):
        is_verification = draw(st.booleans())
        num_rows = draw(st.integers(1, VERIFY if is_verification else 100))
        owner = device(draw(st.integers(1, 4)))
        drawn.append(Offer(owner, SequenceHandle(handle), num_rows, is_verification))
    return drawn


def give(scheduler: Scheduler, offer: Offer, num_rows: int | None = None) -> None:
    rows = offer.num_rows if num_rows is None else num_rows
    if offer.is_verification:
        scheduler.offer_verification(offer.owner, offer.handle, rows)
    else:
        scheduler.offer_chunk(offer.owner, offer.handle, rows)


def filled(drawn: list[Offer]) -> Scheduler:
    scheduler = Scheduler(VERIFY)
    for offer in drawn:
        give(scheduler, offer)
    return scheduler


@given(drawn=offers(), budget=st.integers(2 * VERIFY, 200))
def test_a_step_keeps_the_budget_and_wastes_none_of_it(drawn: list[Offer], budget: int) -> None:
    grants = filled(drawn).plan(budget)
    by_handle = {offer.handle: offer for offer in drawn}
    total = sum(grant.num_rows for grant in grants)
    assert len({grant.handle for grant in grants}) == len(grants)
    assert total <= budget
    for grant in grants:
        offer = by_handle[grant.handle]
        assert 1 <= grant.num_rows <= offer.num_rows
        assert grant.num_rows == offer.num_rows or not offer.is_verification
    if total < budget - VERIFY:
        assert {grant.handle for grant in grants} == set(by_handle)


@given(drawn=offers(), budget=st.integers(1, 2 * VERIFY))
def test_a_budget_of_a_few_rows_has_room_for_one_verification_and_for_prefill(
    drawn: list[Offer], budget: int
) -> None:
    grants = filled(drawn).plan(budget)
    assert sum(grant.num_rows for grant in grants) <= max(budget, VERIFY + 1)
    granted = {grant.handle for grant in grants}
    for is_verification in (True, False):
        offered = {o.handle for o in drawn if o.is_verification is is_verification}
        assert not offered or offered & granted


@given(drawn=offers(), budget=st.integers(2 * VERIFY, 200))
def test_a_verification_waits_only_when_others_fill_seven_eighths(
    drawn: list[Offer], budget: int
) -> None:
    grants = filled(drawn).plan(budget)
    verifications = {offer.handle for offer in drawn if offer.is_verification}
    granted = {grant.handle for grant in grants}
    if verifications - granted:
        verified = sum(g.num_rows for g in grants if g.handle in verifications)
        assert verified > budget - max(1, budget // 8) - VERIFY


@given(drawn=offers())
def test_what_was_granted_or_withdrawn_waits_no_longer(drawn: list[Offer]) -> None:
    scheduler = filled(drawn)
    granted = {grant.handle for grant in scheduler.plan(BUDGET)}
    for offer in drawn:
        if offer.handle not in granted:
            assert scheduler.has_work
            scheduler.withdraw(offer.owner, offer.handle)
    assert not scheduler.has_work
    assert scheduler.plan(BUDGET) == []


@settings(max_examples=at_most(60))
@given(drawn=offers(), data=st.data())
def test_nobody_starves_however_much_the_others_send(
    drawn: list[Offer], data: st.DataObject
) -> None:
    scheduler = filled(drawn)
    patient = data.draw(st.sampled_from(drawn))
    num_left, num_steps = patient.num_rows, 0
    # Each step gives prefill an eighth of the budget and verifications a frame, at the least. Turns
    # of twelve sequences come before the next of the patient one.
    most_steps = 12 * (QUANTUM // (BUDGET // 8) + 1) * (patient.num_rows // (BUDGET // 8) + 1)
    while num_left:
        num_steps += 1
        assert num_steps <= most_steps
        for grant in scheduler.plan(BUDGET):
            offer = next(o for o in drawn if o.handle == grant.handle)
            if offer is not patient:  # greedy: as much again, of either kind
                give(scheduler, offer)
                continue
            num_left -= grant.num_rows
            if num_left:
                give(scheduler, offer, num_left)


@settings(max_examples=at_most(60))
@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=2), sessions=st.integers(1, 8))
def test_a_device_gets_no_more_by_more_sessions_or_larger_frames(
    sizes: list[int], sessions: int
) -> None:
    scheduler = Scheduler(VERIFY)
    modest, greedy = device(1), device(2)
    waiting = {SequenceHandle(0): (modest, sizes[0])}
    waiting |= {SequenceHandle(n): (greedy, sizes[1]) for n in range(1, sessions + 1)}
    served = {modest: 0, greedy: 0}
    for handle, (owner, num_rows) in waiting.items():
        scheduler.offer_chunk(owner, handle, num_rows)
    num_steps = 60
    for _ in range(num_steps):
        for grant in scheduler.plan(BUDGET):
            owner, num_rows = waiting[grant.handle]
            served[owner] += grant.num_rows
            scheduler.offer_chunk(owner, grant.handle, num_rows)
    fair_share = min(sizes[0], BUDGET // 2)
    assert served[modest] >= num_steps * fair_share - 2 * QUANTUM


@settings(max_examples=at_most(60))
@given(
    num_connections=st.integers(1, 12),
    num_sessions=st.integers(1, 4),
    num_rows=st.integers(1, 4),
    is_verification=st.booleans(),
    budget=st.integers(1, 40),
)
def test_an_identity_gets_one_share_however_many_connections_it_has(
    num_connections: int, num_sessions: int, num_rows: int, is_verification: bool, budget: int
) -> None:
    scheduler = Scheduler(VERIFY)
    rows = num_rows if is_verification else 25 * num_rows
    owners = [device(1 + n, "greedy") for n in range(num_connections)]
    modest = Offer(device(0, "modest"), SequenceHandle(0), rows, is_verification)
    greedy = [
        Offer(owner, SequenceHandle(1 + n), rows, is_verification)
        for n, owner in enumerate(owners * num_sessions)
    ]
    by_handle = {offer.handle: offer for offer in [modest, *greedy]}
    served: Counter[Owner] = Counter()
    for offer in by_handle.values():
        give(scheduler, offer)
    for _ in range(80):
        for grant in scheduler.plan(budget):
            served[by_handle[grant.handle].owner] += grant.num_rows
            give(scheduler, by_handle[grant.handle])
    shares = [served[owner] for owner in owners]
    turn = VERIFY if is_verification else max(1, budget // 4)
    num_turns = sum(shares) / turn
    # Waiting with one sequence, it is served once a step; the others then go on without it, and
    # what must not be split may leave so little of a step that its turn is in the next one.
    num_missed = 2 if is_verification else 1
    assert served[modest.owner] >= (min(num_turns / num_missed, 80) - 2) * min(rows, turn)
    spread = 2 * turn + (max(shares) / 2 if is_verification else 0)
    assert max(shares) - min(shares) <= spread


def test_verifications_come_first_and_chunks_fill_the_rest() -> None:
    scheduler = Scheduler(VERIFY)
    scheduler.offer_chunk(device(1), SequenceHandle(1), 100)
    scheduler.offer_verification(device(2), SequenceHandle(2), 3)
    grants = scheduler.plan(BUDGET)
    assert [(g.handle, g.num_rows) for g in grants] == [(2, 3), (1, 29)]


def test_a_chunk_goes_on_while_verifications_fill_every_step() -> None:
    scheduler = Scheduler(VERIFY)
    chunk, num_left = SequenceHandle(0), 40
    scheduler.offer_chunk(device(1), chunk, num_left)
    for number in range(1, 20):
        scheduler.offer_verification(device(2), SequenceHandle(number), VERIFY)
    for _ in range(num_left // (BUDGET // 8)):
        for grant in scheduler.plan(BUDGET):
            if grant.handle == chunk:
                num_left -= grant.num_rows
                assert num_left >= 0
                if num_left:
                    scheduler.offer_chunk(device(1), chunk, num_left)
            else:
                scheduler.offer_verification(device(2), grant.handle, VERIFY)
    assert num_left == 0


def test_a_sequence_waits_in_one_place_when_its_first_frame_changes() -> None:
    scheduler = Scheduler(VERIFY)
    owner, handle = device(1), SequenceHandle(1)
    scheduler.offer_chunk(owner, handle, 50)
    scheduler.offer_verification(owner, handle, 2)
    assert [(g.handle, g.num_rows) for g in scheduler.plan(BUDGET)] == [(1, 2)]
    scheduler.offer_verification(owner, handle, 2)
    scheduler.offer_chunk(owner, handle, 5)
    assert [(g.handle, g.num_rows) for g in scheduler.plan(BUDGET)] == [(1, 5)]
    assert not scheduler.has_work


def test_a_budget_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        Scheduler(VERIFY).plan(0)


@settings(max_examples=at_most(100))
@given(
    turns=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5), st.integers(1, 9)), max_size=30),
    can_split=st.booleans(),
)
def test_the_queue_counts_its_rows_right(
    turns: list[tuple[int, int, int]], can_split: bool
) -> None:
    queue, model = FairQueue(can_split), dict[tuple[int, int], int]()
    for connection, number, num_rows in turns:
        handle = SequenceHandle(10 * connection + number)
        if number == 0:
            for grant in queue.take(2 * num_rows, 9):
                model.pop((grant.handle // 10, grant.handle))
        elif (connection, handle) in model and num_rows == 9:
            queue.withdraw(device(connection), handle)
            del model[(connection, handle)]
        else:
            queue.offer(device(connection), handle, num_rows)
            model[(connection, handle)] = num_rows
        assert queue.num_tokens == sum(model.values())
