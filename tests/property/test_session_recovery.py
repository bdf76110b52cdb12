"""A session whose cloud goes away at any moment, as often as it likes, says what it would have."""

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from chunking.planner import FixedSizePlanner
from device_runtime.session.actions import AwaitReply, ComputeAndSend, Emit, Reopen
from device_runtime.session.draft_length import FixedDraftLength
from device_runtime.session.pipelining import FixedPipelining
from device_runtime.session.session import Phase, Session, SessionLimits
from tests.property.test_session import CONTEXT, World, check_caches, requests
from tests.support.examples import at_most
from tests.support.fake_model import FakeDeviceEngine

MAX_LOSSES = 6


@dataclass
class LossyWorld(World):
    """Before any answer of the cloud it may be lost, with some of what it held."""

    num_losses: int = 0
    before_frames: deque = field(default_factory=deque)

    def perform(self, action):
        match action:
            case Reopen():
                return self.reopen()
            case ComputeAndSend() | AwaitReply() if self.is_lost():
                return self.lose(action)
            case AwaitReply():
                self.before_frames.popleft()
        return super().perform(action)

    def is_lost(self):
        return self.num_losses < MAX_LOSSES and self.choose.draw(st.booleans())

    def compute_and_send(self, action):
        if self.replies and self.replies[0][0].epoch != action.epoch:
            self.before_frames.clear()
        self.before_frames.append(list(self.middle.states))
        return super().compute_and_send(action)

    def lose(self, action):
        self.num_losses += 1
        if isinstance(action, ComputeAndSend) and self.choose.draw(st.booleans()):
            # Its rows were made, and perhaps they arrived.
            self.before_frames.append(list(self.middle.states))
            rows = self.engine.input_rows(self.sequence, action.token_ids, action.position)
            self.middle.step(rows, action.position)
        return self.session.on_lost()

    def reopen(self):
        """Of the frames without a reply some have run; the cloud keeps all, part or nothing."""
        states = [*self.before_frames, list(self.middle.states)]
        self.middle.states = self.choose.draw(st.sampled_from(states), label="after frame")
        num_kept = self.choose.draw(st.integers(0, len(self.middle.states)))
        kept = self.choose.draw(st.sampled_from([len(self.middle.states), 0, num_kept]))
        del self.middle.states[kept:]
        self.before_frames.clear()
        self.replies.clear()
        max_frame_tokens = self.choose.draw(st.integers(1, 64))
        return self.session.on_reopened(kept, max_frame_tokens)


@settings(max_examples=at_most(150), deadline=None)
@given(
    request=requests,
    chunk_tokens=st.one_of(st.none(), st.integers(1, 20)),
    window=st.integers(1, 5),
    num_draft_tokens=st.integers(0, 6),
    num_behind=st.integers(0, 3),
    num_output_layers=st.integers(0, 1),
    choose=st.data(),
)
def test_a_cloud_lost_at_any_moment_changes_no_token(
    request, chunk_tokens, window, num_draft_tokens, num_behind, num_output_layers, choose
):
    limits = SessionLimits(CONTEXT, 64, window, num_output_layers > 0)
    planner, draft_length = FixedSizePlanner(chunk_tokens), FixedDraftLength(num_draft_tokens)
    session = Session(request, limits, planner, draft_length, FixedPipelining(num_behind))
    world = LossyWorld(session, request, FakeDeviceEngine(num_output_layers), choose)
    actions = world.run()

    ids = [token.id for emission in world.emissions for token in emission.tokens]
    assert ids == world.expected
    reasons = [emission.finish_reason for emission in world.emissions]
    assert [reason for reason in reasons if reason is not None] == reasons[-1:]
    assert session.phase is Phase.FINISHED
    assert isinstance(actions[-1], Emit)
    check_frames_between_losses(actions, window)
    check_caches(world, len(session.valid_text))


def check_frames_between_losses(actions, window):
    """Bounded in flight, and each recovery under an epoch above all before it."""
    num_in_flight, epoch = 0, 0
    for before, action in zip([None, *actions], actions, strict=False):
        match action:
            case Reopen():
                num_in_flight = 0
            case ComputeAndSend():
                assert action.epoch > epoch if isinstance(before, Reopen) else action.epoch >= epoch
                num_in_flight = num_in_flight + 1 if action.epoch == epoch else 1
                epoch = action.epoch
                assert num_in_flight <= window
            case AwaitReply():
                num_in_flight -= 1


@settings(max_examples=at_most(60), deadline=None)
@given(first=requests, data=st.data())
def test_a_continued_session_that_is_lost_does_not_believe_what_the_turn_before_left(first, data):
    num_output_layers = data.draw(st.integers(0, 1))
    limits = SessionLimits(CONTEXT, 64, 2, num_output_layers > 0)

    def session(request, **cached):
        planner, length, pipelining = FixedSizePlanner(5), FixedDraftLength(3), FixedPipelining(2)
        return Session(request, limits, planner, length, pipelining, **cached)

    old = session(first)
    world = World(old, first, FakeDeviceEngine(num_output_layers), data)
    world.run()
    valid = len(world.session.valid_text)
    cached = data.draw(st.integers(0, min(valid, CONTEXT - 2)))
    tail = data.draw(st.lists(st.integers(0, 15), min_size=1, max_size=CONTEXT - 1 - cached))
    again = type(first)([*old.text[:cached], *tail], 9, first.sampling)
    new = session(again, num_cached_tokens=cached, first_epoch=old.epoch + 1)
    continued = LossyWorld(new, again, world.engine, data, middle=world.middle)
    continued.sequence = world.sequence
    continued.run()
    ids = [token.id for emission in continued.emissions for token in emission.tokens]
    assert ids == continued.expected
