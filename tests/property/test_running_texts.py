"""Of running prompts, what another may copy is what is longest and certainly cached."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chunking.cost import LinearTime
from chunking.estimates import UNKNOWN, Estimates
from device_runtime.session.running_texts import RunningTexts, pays_to_wait

texts = st.lists(st.integers(0, 1), min_size=1, max_size=10)


class Place:
    """Stands for a session's caches."""

    is_alive = True


class Runs(RuleBasedStateMachine):
    """Runs come, get on, lose their cloud and end, in any order; a plain model knows the same."""

    def __init__(self):
        super().__init__()
        self.num_changes = 0
        self.texts = RunningTexts(lambda place: place.is_alive, self._note)
        self.runs = []

    def _note(self):
        self.num_changes += 1

    @rule(text=texts, has_place=st.booleans())
    def begin(self, text, has_place):
        run = self.texts.begin(text)
        run.place = Place() if has_place else None
        self.runs.append((text, run))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def settle(self, data):
        text, run = data.draw(st.sampled_from(self.runs))
        num_tokens, before = data.draw(st.integers(0, len(text))), self.num_changes
        was = (run.num_settled_tokens, run.is_stalled)
        run.settle(num_tokens)
        assert self.num_changes - before == (was != (num_tokens, False))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def stall(self, data):
        before = self.num_changes
        data.draw(st.sampled_from(self.runs))[1].stall()
        assert self.num_changes == before + 1

    @precondition(lambda self: any(run.place for _, run in self.runs))
    @rule(data=st.data())
    def lose(self, data):
        with_place = [run for _, run in self.runs if run.place]
        data.draw(st.sampled_from(with_place)).place.is_alive = False

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), times=st.integers(1, 2))
    def end(self, data, times):
        over, before = data.draw(st.sampled_from(self.runs)), self.num_changes
        self.runs.remove(over)
        for _ in range(times):
            over[1].end()
        assert self.num_changes > before

    @rule(prompt=texts)
    def find(self, prompt):
        usable = [
            (_num_shared(text, prompt), run)
            for text, run in self.runs
            if not run.is_stalled and (run.place is None or run.place.is_alive)
        ]
        most = max((num for num, _ in usable), default=0)
        share = self.texts.longest(prompt)
        assert (share is None) == (most == 0)
        if share is not None:
            rivals = [run for num, run in usable if num == most]
            assert share.num_shared_tokens == most < len(prompt)
            assert share.run in rivals
            ready = [min(most, run.num_settled_tokens) for run in rivals]
            assert share.num_ready_tokens == max(ready)
            assert share.is_decided == (max(ready) == most)
            share.run.end()
            self.runs = [each for each in self.runs if each[1] is not share.run]
            assert share.is_decided, "nobody waits for what is over"

    @invariant()
    def only_what_runs_is_remembered(self):
        assert len(self.texts) == len(self.runs)


def _num_shared(text, prompt):
    length = 0
    while length < min(len(text), len(prompt) - 1) and text[length] == prompt[length]:
        length += 1
    return length


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=100, deadline=None)

positive = st.floats(1e-6, 1.0)


@given(
    num_tokens=st.integers(0, 4000),
    rates=st.tuples(positive, positive, positive),
    delay_s=st.floats(0, 1),
    fixed_s=st.floats(0, 0.1),
)
def test_waiting_pays_when_the_slowest_stage_needs_longer_than_a_round_trip(
    num_tokens, rates, delay_s, fixed_s
):
    device_s, uplink_s, cloud_s = rates
    known = Estimates(
        token_bytes=1000,
        uplink_bytes_per_s=1000 / uplink_s,
        delay_s=delay_s,
        cloud_step=LinearTime(fixed_s, cloud_s),
        prefill=LinearTime(0.0, device_s),
    )
    alone_s = num_tokens * max(device_s, 1000 / (1000 / uplink_s), cloud_s)
    assert pays_to_wait(num_tokens, known) == (alone_s > delay_s + fixed_s)


def test_a_link_of_which_nothing_is_known_is_waited_for_when_the_prompt_is_long():
    assert pays_to_wait(1000, UNKNOWN)
    assert not pays_to_wait(20, UNKNOWN)
