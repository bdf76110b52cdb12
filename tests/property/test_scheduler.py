"""What a step holds: verifications first, the budget kept, devices alike, nobody left waiting."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.actions import ConnectionId, SequenceHandle
from cloud_server.scheduler import FairQueue, Scheduler

VERIFY = 4
QUANTUM = 16
BUDGET = 32


@dataclass(frozen=True)
class Offer:
    connection: ConnectionId
    handle: SequenceHandle
    num_rows: int
    is_verification: bool


@st.composite
def offers(draw: st.DrawFn) -> list[Offer]:
    """Up to twelve sequences on up to four connections, each with a frame waiting."""
    drawn = []
    for handle in range(draw(st.integers(1, 12))):
        is_verification = draw(st.booleans())
        num_rows = draw(st.integers(1, VERIFY if is_verification else 100))
        connection = ConnectionId(draw(st.integers(1, 4)))
        drawn.append(Offer(connection, SequenceHandle(handle), num_rows, is_verification))
    return drawn


def give(scheduler: Scheduler, offer: Offer, num_rows: int | None = None) -> None:
    rows = offer.num_rows if num_rows is None else num_rows
    if offer.is_verification:
        scheduler.offer_verification(offer.connection, offer.handle, rows)
    else:
        scheduler.offer_chunk(offer.connection, offer.handle, rows)


def filled(drawn: list[Offer]) -> Scheduler:
    scheduler = Scheduler(VERIFY, QUANTUM)
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
            scheduler.withdraw(offer.connection, offer.handle)
    assert not scheduler.has_work
    assert scheduler.plan(BUDGET) == []


@settings(max_examples=60)
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


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=2), sessions=st.integers(1, 8))
def test_a_device_gets_no_more_by_more_sessions_or_larger_frames(
    sizes: list[int], sessions: int
) -> None:
    scheduler = Scheduler(VERIFY, QUANTUM)
    modest, greedy = ConnectionId(1), ConnectionId(2)
    waiting = {SequenceHandle(0): (modest, sizes[0])}
    waiting |= {SequenceHandle(n): (greedy, sizes[1]) for n in range(1, sessions + 1)}
    served = {modest: 0, greedy: 0}
    for handle, (connection, num_rows) in waiting.items():
        scheduler.offer_chunk(connection, handle, num_rows)
    num_steps = 60
    for _ in range(num_steps):
        for grant in scheduler.plan(BUDGET):
            connection, num_rows = waiting[grant.handle]
            served[connection] += grant.num_rows
            scheduler.offer_chunk(connection, grant.handle, num_rows)
    fair_share = min(sizes[0], BUDGET // 2)
    assert served[modest] >= num_steps * fair_share - 2 * QUANTUM


def test_verifications_come_first_and_chunks_fill_the_rest() -> None:
    scheduler = Scheduler(VERIFY, QUANTUM)
    scheduler.offer_chunk(ConnectionId(1), SequenceHandle(1), 100)
    scheduler.offer_verification(ConnectionId(2), SequenceHandle(2), 3)
    grants = scheduler.plan(BUDGET)
    assert [(g.handle, g.num_rows) for g in grants] == [(2, 3), (1, 29)]


def test_a_chunk_goes_on_while_verifications_fill_every_step() -> None:
    scheduler = Scheduler(VERIFY, QUANTUM)
    chunk, num_left = SequenceHandle(0), 40
    scheduler.offer_chunk(ConnectionId(1), chunk, num_left)
    for number in range(1, 20):
        scheduler.offer_verification(ConnectionId(2), SequenceHandle(number), VERIFY)
    for _ in range(num_left // (BUDGET // 8)):
        for grant in scheduler.plan(BUDGET):
            if grant.handle == chunk:
                num_left -= grant.num_rows
                assert num_left >= 0
                if num_left:
                    scheduler.offer_chunk(ConnectionId(1), chunk, num_left)
            else:
                scheduler.offer_verification(ConnectionId(2), grant.handle, VERIFY)
    assert num_left == 0


def test_a_sequence_waits_in_one_place_when_its_first_frame_changes() -> None:
    scheduler = Scheduler(VERIFY, QUANTUM)
    connection, handle = ConnectionId(1), SequenceHandle(1)
    scheduler.offer_chunk(connection, handle, 50)
    scheduler.offer_verification(connection, handle, 2)
    assert [(g.handle, g.num_rows) for g in scheduler.plan(BUDGET)] == [(1, 2)]
    scheduler.offer_verification(connection, handle, 2)
    scheduler.offer_chunk(connection, handle, 5)
    assert [(g.handle, g.num_rows) for g in scheduler.plan(BUDGET)] == [(1, 5)]
    assert not scheduler.has_work


def test_a_budget_without_room_for_a_verification_and_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 tokens, got 7"):
        Scheduler(VERIFY, QUANTUM).plan(7)


@settings(max_examples=100)
@given(
    turns=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5), st.integers(1, 9)), max_size=30),
    can_split=st.booleans(),
)
def test_the_queue_counts_its_rows_right(
    turns: list[tuple[int, int, int]], can_split: bool
) -> None:
    queue, model = FairQueue(9, can_split), dict[tuple[int, int], int]()
    for connection, number, num_rows in turns:
        handle = SequenceHandle(10 * connection + number)
        if number == 0:
            for grant in queue.take(2 * num_rows):
                model.pop((grant.handle // 10, grant.handle))
        elif (connection, handle) in model and num_rows == 9:
            queue.withdraw(ConnectionId(connection), handle)
            del model[(connection, handle)]
        else:
            queue.offer(ConnectionId(connection), handle, num_rows)
            model[(connection, handle)] = num_rows
        assert queue.num_tokens == sum(model.values())
