from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunking.planner import FixedSizePlanner
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from device_runtime.session.acceptance import walk
from device_runtime.session.actions import (
    AwaitReply,
    Choose,
    ComputeAndSend,
    Draft,
    Emit,
    FeedOutput,
)
from device_runtime.session.draft_length import FixedDraftLength
from device_runtime.session.pipelining import FixedPipelining
from device_runtime.session.session import Phase, Session, SessionLimits
from tests.support.examples import at_most
from tests.support.fake_model import (
    VOCAB_SIZE,
    FakeDeviceEngine,
    FakeMiddle,
    plain_text,
    shallow_rows,
)
from tests.support.replies import reply
from wire.errors import RemoteProtocolError
from wire.messages import Want

CONTEXT = 48
token_ids = st.integers(0, VOCAB_SIZE - 1)

requests = st.builds(
    GenerationRequest,
    prompt_ids=st.lists(token_ids, min_size=1, max_size=CONTEXT - 1),
    max_tokens=st.integers(1, 60),
    sampling=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 1.0]),
        frequency_penalty=st.sampled_from([0.0, 0.8]),
    ),
    stop_token_ids=st.frozensets(token_ids, max_size=2),
    min_tokens=st.integers(0, 5),
)


@dataclass
class World:
    """Both caches, a link that delivers in order, and a drafter that is right when told to be.

    The cloud runs every frame at once: also those that a later one makes stale, whose replies are
    dropped when the epoch rises, as the link does.
    """

    session: Session
    request: GenerationRequest
    engine: FakeDeviceEngine
    choose: "st.DataObject"
    middle: FakeMiddle = field(default_factory=FakeMiddle)
    replies: deque = field(default_factory=deque)
    emissions: list = field(default_factory=list)
    actions: list = field(default_factory=list)

    def __post_init__(self):
        self.sequence = self.engine.open()
        self.noise = PositionNoise(3)
        self.sampler = Sampler(self.request, VOCAB_SIZE, self.noise)
        self.expected = plain_text(self.request, self.noise, self.engine.num_output_layers, CONTEXT)

    def run(self):
        pending = deque(self.session.start())
        while pending:
            action = pending.popleft()
            self.actions.append(action)
            pending.extend(self.perform(action))
        return self.actions

    def num_waiting(self):
        return self.choose.draw(st.integers(0, len(self.replies)))

    def perform(self, action):
        match action:
            case ComputeAndSend():
                return self.compute_and_send(action)
            case AwaitReply():
                facts, self.deep = self.replies.popleft()
                assert (facts.epoch, facts.position) == (action.epoch, action.position)
                return self.session.on_reply(facts, self.num_waiting())
            case FeedOutput():
                self.engine.logits(self.sequence, self.deep, action.position, 0)
                return []
            case Choose():
                return self.session.on_chosen(self.decide(action), 0.0, self.num_waiting())
            case Draft():
                return self.session.on_draft(self.draft(action), 0.0, self.num_waiting())
            case Emit():
                self.emissions.append(action.emission)
                return []

    def compute_and_send(self, action):
        rows = self.engine.input_rows(self.sequence, action.token_ids, action.position)
        deep = self.middle.step(rows, action.position)
        wanted = {Want.NONE: deep[:0], Want.LAST: deep[-1:], Want.ALL: deep}[action.want]
        facts = reply(action.epoch, action.position, len(wanted), len(self.middle.states))
        self.replies = deque(each for each in self.replies if each[0].epoch == action.epoch)
        self.replies.append((facts, wanted))
        return self.session.on_sent(self.num_waiting())

    def decide(self, action):
        rows = self.engine.logits(self.sequence, self.deep, action.position, len(action.draft) + 1)
        decided = []

        def choose(index):
            token = self.sampler.choose(rows[index])
            decided.append(self.sampler.commit(token, rows[index]))
            return token

        walk(action.draft, choose, self.request.stop_token_ids)
        return decided

    def draft(self, action):
        num_tokens = action.num_tokens
        done = len(self.session.text) + len(action.undecided) - len(self.request.prompt_ids)
        right = self.expected[done : done + num_tokens]
        wrong_at = self.choose.draw(st.integers(0, num_tokens))
        draft = [*right[:wrong_at], *([0] * num_tokens)][:num_tokens]
        return draft[: self.choose.draw(st.integers(0, num_tokens))]


@settings(max_examples=at_most(150), deadline=None)
@given(
    request=requests,
    chunk_tokens=st.one_of(st.none(), st.integers(1, 20)),
    window=st.integers(1, 5),
    max_frame_tokens=st.integers(1, 64),
    num_draft_tokens=st.integers(0, 6),
    num_behind=st.integers(0, 3),
    num_output_layers=st.integers(0, 1),
    choose=st.data(),
)
def test_any_schedule_decodes_what_the_whole_model_does(
    request,
    chunk_tokens,
    window,
    max_frame_tokens,
    num_draft_tokens,
    num_behind,
    num_output_layers,
    choose,
):
    limits = SessionLimits(CONTEXT, max_frame_tokens, window, num_output_layers > 0)
    planner, draft_length = FixedSizePlanner(chunk_tokens), FixedDraftLength(num_draft_tokens)
    session = Session(request, limits, planner, draft_length, FixedPipelining(num_behind))
    world = World(session, request, FakeDeviceEngine(num_output_layers), choose)
    actions = world.run()

    ids = [token.id for emission in world.emissions for token in emission.tokens]
    assert ids == world.expected
    assert list(session.text) == [*request.prompt_ids, *ids]
    reasons = [emission.finish_reason for emission in world.emissions]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert reasons[-1] == ("stop" if ids[-1] in request.stop_token_ids else "length")
    assert session.phase is Phase.FINISHED
    assert isinstance(actions[-1], Emit)
    check_frames(actions, limits, num_behind)
    check_caches(world, len(session.valid_text))
    check_pipelined_rows(session, actions)


def check_frames(actions, limits, num_behind):
    """Bounded, within the context, and in step with what the cloud drops by the epoch."""
    in_flight = []
    for action in actions:
        if isinstance(action, ComputeAndSend):
            assert 1 <= len(action.token_ids) <= limits.max_frame_tokens
            # The last token of the context is chosen and never computed.
            assert action.position + len(action.token_ids) <= limits.max_context_tokens - 1
            in_flight = [each for each in in_flight if each.epoch == action.epoch]
            in_flight.append(action)
            assert len(in_flight) <= limits.max_frames_in_flight
            if in_flight[0].is_verify:
                assert len(in_flight) <= 1 + num_behind
                assert limits.feeds_output_layers is False or len(in_flight) == 1
        if isinstance(action, AwaitReply):
            oldest = in_flight.pop(0)
            assert (oldest.epoch, oldest.position) == (action.epoch, action.position)
    assert all(each.is_verify for each in in_flight)
    assert len(in_flight) <= num_behind


def check_pipelined_rows(session, actions):
    """Rows behind an undecided draft are counted once, and so are those whose reply nobody took."""
    undecided, num_behind, num_stale = [], 0, 0
    for action in actions:
        match action:
            case ComputeAndSend(is_verify=True):
                if undecided and undecided[0].epoch != action.epoch:
                    num_stale += sum(len(each.token_ids) for each in undecided)
                    undecided.clear()
                num_behind += len(action.token_ids) if undecided else 0
                undecided.append(action)
            case AwaitReply() if undecided:
                undecided.pop(0)
    num_stale += sum(len(each.token_ids) for each in undecided)
    assert session.rounds.num_behind_rows == num_behind
    assert session.rounds.num_stale_rows == num_stale


def check_caches(world, num_valid_tokens):
    text = list(world.session.text)
    assert len(text) - 1 <= num_valid_tokens <= len(text)
    assert world.engine.inputs[world.sequence][:num_valid_tokens] == text[:num_valid_tokens]
    fresh = FakeMiddle()
    fresh.step(shallow_rows(text[:num_valid_tokens], 0), 0)
    assert world.middle.states[:num_valid_tokens] == fresh.states
    if world.engine.num_output_layers:
        assert len(world.engine.outputs[world.sequence]) >= num_valid_tokens


def test_drafts_that_are_always_right_are_verified_without_a_pause():
    request = GenerationRequest((1, 2, 3), 40, SamplingParams(temperature=0.0))
    limits = SessionLimits(CONTEXT, 16, 8, False)
    session = Session(
        request, limits, FixedSizePlanner(None), FixedDraftLength(3), FixedPipelining(2)
    )

    class Right(World):
        def draft(self, action):
            done = len(self.session.text) + len(action.undecided) - len(self.request.prompt_ids)
            return self.expected[done : done + action.num_tokens]

        def num_waiting(self):
            return 0

    world = Right(session, request, FakeDeviceEngine(0), None)
    actions = world.run()
    frames = [action for action in actions if isinstance(action, ComputeAndSend)]
    assert [token.id for each in world.emissions for token in each.tokens] == world.expected
    # One chain from the second frame on, three drafted tokens each, and no row in vain.
    assert {frame.epoch for frame in frames[1:]} == {2}
    assert [len(frame.token_ids) for frame in frames[1:-1]] == [4] + [3] * (len(frames) - 3)
    assert session.rounds.num_stale_rows == 0
    assert session.rounds.num_behind_rows == sum(len(frame.token_ids) for frame in frames[2:])
    waits = [type(action) for action in actions[actions.index(frames[1]) :]]
    assert waits[:6] == [ComputeAndSend, Draft, ComputeAndSend, Draft, ComputeAndSend, AwaitReply]


@settings(max_examples=at_most(100), deadline=None)
@given(first=requests, data=st.data())
def test_a_session_that_continues_a_cached_prefix_decodes_the_same(first, data):
    shared = data.draw(st.integers(0, len(first.prompt_ids) - 1))
    num_output_layers = data.draw(st.integers(0, 1))
    limits = SessionLimits(CONTEXT, 64, 2, num_output_layers > 0)

    def session(request, **cached):
        planner, length, pipelining = FixedSizePlanner(5), FixedDraftLength(3), FixedPipelining(2)
        return Session(request, limits, planner, length, pipelining, **cached)

    old = session(first)
    world = World(old, first, FakeDeviceEngine(num_output_layers), data)
    world.run()
    valid = len(world.session.valid_text)
    cached = min(shared, valid)
    tail = data.draw(st.lists(token_ids, min_size=1, max_size=CONTEXT - 1 - cached))
    again = GenerationRequest([*old.text[:cached], *tail], 9, SamplingParams(temperature=0.0))
    new = session(again, num_cached_tokens=cached, first_epoch=old.epoch + 1)
    continued = World(new, again, world.engine, data, middle=world.middle)
    continued.sequence = world.sequence
    actions = continued.run()
    assert actions[0].position == cached
    assert actions[0].epoch > old.epoch
    ids = [token.id for emission in continued.emissions for token in emission.tokens]
    assert ids == continued.expected


@given(
    change=st.sampled_from(["epoch", "position", "num_rows", "cached_tokens"]),
    by=st.sampled_from([-1, 1]),
)
def test_a_reply_that_does_not_answer_the_oldest_frame_is_refused(change, by):
    limits = SessionLimits(CONTEXT, 64, 2, False)
    request = GenerationRequest((1, 2, 3), 5, SamplingParams())
    session = Session(request, limits, FixedSizePlanner(None), FixedDraftLength(0))
    session.start()
    assert session.on_sent(0) == [AwaitReply(1, 0)]
    right = {"epoch": 1, "position": 0, "num_rows": 1, "cached_tokens": 3}
    wrong = reply(**{**right, change: right[change] + by})
    with pytest.raises(RemoteProtocolError, match="expected a reply with"):
        session.on_reply(wrong, 0)
