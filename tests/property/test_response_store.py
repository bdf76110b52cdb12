"""The store of responses is a bounded dictionary that forgets what was used least recently."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from device_runtime.api.responses.request import Item
from device_runtime.api.responses.store import ResponseStore, Stored
from tests.support.examples import at_most

MAX_RESPONSES, MAX_BYTES = 4, 20

names = st.sampled_from("abcdefg")


class Stores(RuleBasedStateMachine):
    """The store beside a list of what it holds, the least recently used first."""

    def __init__(self) -> None:
        super().__init__()
        self.store = ResponseStore(MAX_RESPONSES, MAX_BYTES)
        self.model: list[tuple[str, Stored]] = []
        self.num_puts = 0

    @rule(name=names, num_bytes=st.integers(1, MAX_BYTES + 3))
    def put(self, name: str, num_bytes: int) -> None:
        self.num_puts += 1
        item = Item(id=f"msg_{name}_{self.num_puts}")
        stored = Stored((item,), {}, num_bytes, {item.id or "": item})
        self.store.put(name, stored)
        self.model = [each for each in self.model if each[0] != name]
        if num_bytes > MAX_BYTES:
            return
        self.model.append((name, stored))
        while (
            len(self.model) > MAX_RESPONSES
            or sum(each.num_bytes for _, each in self.model) > MAX_BYTES
        ):
            del self.model[0]

    @rule(name=names)
    def get(self, name: str) -> None:
        expected = dict(self.model).get(name)
        assert self.store.get(name) is expected
        if expected is not None:
            self.model = [each for each in self.model if each[0] != name] + [(name, expected)]

    @rule(name=names)
    def delete(self, name: str) -> None:
        assert self.store.delete(name) is (name in dict(self.model))
        self.model = [each for each in self.model if each[0] != name]

    @invariant()
    def items_are_those_of_the_responses_that_are_kept(self) -> None:
        kept = {item.id for _, stored in self.model for item in stored.items}
        assert len(self.store) == len(self.model)
        for number in range(1, self.num_puts + 1):
            for name in "abcdefg":
                found = self.store.item(f"msg_{name}_{number}")
                assert (found is not None) is (f"msg_{name}_{number}" in kept)


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=at_most(60), stateful_step_count=30, deadline=None)
