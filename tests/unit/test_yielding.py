"""Rows of who has reached a quota run where they cost others next to nothing."""

from hypothesis import given
from hypothesis import strategies as st

from cloud_server.core.actions import ConnectionId, Identity, Owner, SequenceHandle
from cloud_server.core.scheduling.scheduler import Scheduler
from cloud_server.core.scheduling.yielding import Yielding

HOG, GUEST = (Owner(Identity(f"@{name}"), ConnectionId(n)) for n, name in enumerate(("hog", "gu")))
VERIFY = 8


class Rates:
    """A hog that has reached its rate, for as long as it is said so."""

    def __init__(self) -> None:
        self.free = 100
        self.reached = True

    def has_reached_quota(self, identity: Identity, now: float) -> bool:
        return self.reached and identity == HOG.identity

    def free_rows(self, identity: Identity, now: float) -> int:
        return self.free


class Cloud:
    """A scheduler, and a step of it; six more rows ride in each."""

    def __init__(self, riding: int = 6) -> None:
        self.scheduler, self.rates, self.now = Scheduler(VERIFY), Rates(), 100.0
        self.yielding = Yielding(self.scheduler, self.rates, lambda num_tokens: riding)
        self.yielding.note(HOG.identity, self.now)

    def verify(self, owner: Owner, handle: int, num_rows: int) -> None:
        self.yielding.note(owner.identity, self.now)
        self.scheduler.offer_verification(owner, SequenceHandle(handle), num_rows)

    def chunk(self, owner: Owner, handle: int, num_rows: int) -> None:
        self.yielding.note(owner.identity, self.now)
        self.scheduler.offer_chunk(owner, SequenceHandle(handle), num_rows)

    def step(self, budget: int = 64) -> dict[int, int]:
        """Rows of the next step by handle."""
        self.yielding.begin(self.now)
        grants = self.scheduler.plan(budget)
        grants += self.yielding.grants(grants, budget, self.now)
        return {int(grant.handle): grant.num_rows for grant in grants}


def test_rows_ride_beside_those_of_others_as_far_as_these_bear() -> None:
    cloud = Cloud()
    cloud.verify(GUEST, 1, 4)
    cloud.verify(HOG, 2, 4)
    cloud.verify(HOG, 3, 4)
    assert cloud.step() == {1: 4, 2: 4}, "the second one is too long for what is left"
    cloud.chunk(GUEST, 1, 10)
    cloud.chunk(HOG, 4, 50)
    assert cloud.step() == {1: 10, 3: 4, 4: 2}


def test_they_run_alone_once_nobody_else_has_had_rows_for_a_second() -> None:
    cloud = Cloud()
    cloud.verify(GUEST, 1, 4)
    assert cloud.step() == {1: 4}
    cloud.verify(HOG, 2, 4)
    for after_s in (0.0, 0.5, 0.4):
        cloud.now += after_s
        assert cloud.step() == {}
    assert cloud.yielding.has_work
    assert cloud.yielding.look_again_s() is not None
    cloud.now += 0.2
    assert cloud.step() == {2: 4}
    assert cloud.yielding.look_again_s() is None


def test_no_more_run_than_the_rate_has_free() -> None:
    cloud = Cloud()
    cloud.chunk(HOG, 2, 50)
    cloud.rates.free = 3
    assert cloud.step() == {2: 3}
    cloud.chunk(HOG, 2, 47)
    cloud.rates.free = 0
    assert cloud.step() == {}


def test_an_offer_that_never_fits_runs_in_the_end_and_beside_others() -> None:
    cloud = Cloud(riding=2)
    cloud.verify(HOG, 2, 7)
    cloud.chunk(HOG, 3, 50)
    num_steps = 0
    while True:
        cloud.now += 0.1
        cloud.verify(GUEST, 1, 4)
        step = cloud.step()
        assert step[1] == 4
        num_steps += 1
        if 2 in step:
            break
        assert step == {1: 4}, "chunks do not overtake what waits for its turn"
    assert 95 <= num_steps <= 105
    cloud.now += 0.1
    cloud.verify(GUEST, 1, 4)
    assert cloud.step() == {1: 4, 3: 2}


def test_who_has_let_enough_be_has_turns_like_others() -> None:
    cloud = Cloud()
    cloud.verify(HOG, 2, 8)
    cloud.rates.reached = False
    cloud.verify(GUEST, 1, 4)
    assert cloud.step(budget=4) == {1: 4}, "as long as rows of his wait he yields"
    cloud.now += 2
    assert cloud.step() == {2: 8}
    cloud.verify(HOG, 2, 8)
    cloud.verify(GUEST, 1, 4)
    assert cloud.step() == {1: 4, 2: 8}


@given(
    offers=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.integers(1, 6), st.integers(1, VERIFY)),
        max_size=40,
    ),
    riding=st.integers(0, 12),
)
def test_every_row_runs_once_and_a_step_of_others_gets_no_more_than_rides(
    offers: list[tuple[bool, bool, int, int]], riding: int
) -> None:
    cloud = Cloud(riding)
    cloud.yielding.note(GUEST.identity, cloud.now)
    waiting: dict[int, int] = {}
    for is_hog, is_chunk, handle, num_rows in offers:
        number = handle + 10 * is_hog
        (cloud.chunk if is_chunk else cloud.verify)(HOG if is_hog else GUEST, number, num_rows)
        waiting[number] = num_rows
        step = cloud.step(budget=16)
        hogs = sum(rows for each, rows in step.items() if each > 10)
        assert hogs <= (riding if len(step) and min(step) < 10 else 0)
        for each, rows in step.items():
            assert rows <= waiting[each]
            waiting[each] -= rows
            if waiting[each]:
                owner = HOG if each > 10 else GUEST
                cloud.chunk(owner, each, waiting[each])
    for _ in range(400):
        cloud.now += 1.1
        for each, rows in cloud.step(budget=16).items():
            waiting[each] -= rows
            if waiting[each]:
                owner = HOG if each > 10 else GUEST
                cloud.scheduler.offer_chunk(owner, SequenceHandle(each), waiting[each])
    assert not any(waiting.values())
    assert not cloud.yielding.has_work
