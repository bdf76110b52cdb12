"""Bounds on connections under any order of comings, goings and doubts."""

from hypothesis import given
from hypothesis import strategies as st

from process.listening.door import Door, FullError, Visit

MAX_ALL, MAX_PER_ADDRESS = 6, 3
ADDRESSES = ("a", "b", "c", "d", None)

steps = st.lists(
    st.tuples(
        st.sampled_from(("enter", "leave", "prove", "doubt", "move")),
        st.integers(0, 30),
        st.sampled_from(ADDRESSES),
    ),
    max_size=80,
)


class _Model:
    """What a door must do, said the slow way."""

    def __init__(self) -> None:
        self.door = Door(MAX_ALL, MAX_PER_ADDRESS)
        self.inside: list[Visit] = []
        self.unproven: list[Visit] = []

    def num_of(self, address: str | None) -> int:
        return _count(self.inside, address)

    def enter(self, address: str | None) -> None:
        new = Visit("host", address, 0.0, lambda: None)
        is_crowd = address is not None and self.num_of(address) >= MAX_PER_ADDRESS
        may_go = [v for v in self.unproven if not is_crowd or v.address == address]
        must_go = is_crowd or len(self.inside) >= MAX_ALL
        try:
            victim = self.door.enter(new)
        except FullError:
            assert must_go
            assert not may_go
            return
        assert (victim is not None) == must_go
        if victim is not None:
            same = [v for v in self.unproven if v.address == victim.address]
            assert victim is same[0]
            assert all(len(same) >= _count(self.unproven, v.address) for v in may_go)
            self._gone(victim)
        self.inside.append(new)
        self.unproven.append(new)

    def leave(self, visit: Visit) -> None:
        self.door.leave(visit)
        self.door.leave(visit)
        self._gone(visit)

    def prove(self, visit: Visit) -> None:
        self.door.prove(visit)
        if visit in self.unproven:
            self.unproven.remove(visit)

    def doubt(self, visit: Visit) -> None:
        self.door.doubt(visit)
        if visit not in self.unproven:
            self.unproven.append(visit)

    def move(self, visit: Visit, address: str) -> None:
        if visit.address == address:
            return
        try:
            victim = self.door.move(visit, address)
        except FullError:
            assert self.num_of(address) >= MAX_PER_ADDRESS
            return
        if victim is not None:
            self._gone(victim)
        if visit in self.unproven:
            self.unproven.remove(visit)
            self.unproven.append(visit)

    def check(self) -> None:
        assert len(self.door) == len(self.inside) <= MAX_ALL
        for address in ADDRESSES:
            assert self.door.num_of(address) == self.num_of(address)
            assert address is None or self.num_of(address) <= MAX_PER_ADDRESS

    def _gone(self, visit: Visit) -> None:
        self.inside.remove(visit)
        if visit in self.unproven:
            self.unproven.remove(visit)


@given(steps)
def test_the_door_counts_right_and_puts_out_only_the_oldest_who_has_shown_nothing(steps):
    model = _Model()
    for what, index, address in steps:
        if what == "enter":
            model.enter(address)
        elif model.inside:
            visit = model.inside[index % len(model.inside)]
            match what:
                case "leave":
                    model.leave(visit)
                case "prove":
                    model.prove(visit)
                case "doubt":
                    model.doubt(visit)
                case _ if address is not None:
                    model.move(visit, address)
        model.check()


def _count(visits: list[Visit], address: str | None) -> int:
    return sum(visit.address == address for visit in visits)


def test_a_crowd_of_one_address_pushes_out_its_own_and_nobody_elses():
    door = Door(10, 8)
    put_out: list[str] = []

    def visit(address: str) -> Visit:
        return Visit(address, address, 0.0, lambda: None)

    polite = [visit("polite") for _ in range(2)]
    for each in polite:
        assert door.enter(each) is None
    for _ in range(100):
        victim = door.enter(visit("crowd"))
        put_out += [] if victim is None else [str(victim.address)]
    assert set(put_out) == {"crowd"}
    assert door.num_of("polite") == 2
