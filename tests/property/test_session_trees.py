"""A session whose drafts branch says what the whole model does, also when its cloud goes away."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from chunking.planner import FixedSizePlanner
from device_runtime.session.actions import ComputeAndSend, Draft, Finish
from device_runtime.session.draft_length import FixedDraftLength
from device_runtime.session.session import Phase, Session, SessionLimits
from tests.property.test_session import CONTEXT, requests
from tests.property.test_session_recovery import LossyWorld
from tests.support.fake_model import VOCAB_SIZE, FakeDeviceEngine, FakeMiddle, shallow_rows
from tests.support.trees import trees
from wire.trees import row_depths


@dataclass
class TreeWorld(LossyWorld):
    """Drafts trees in which the right token may stand anywhere, and loses its cloud or never."""

    may_be_lost: bool = False

    def is_lost(self):
        return self.may_be_lost and super().is_lost()

    def perform(self, action):
        if isinstance(action, Draft):
            return self.session.on_draft(*self.tree(action.num_tokens))
        return super().perform(action)

    def compute_and_send(self, action):
        # Reopening may have changed the limit.
        assert len(action.token_ids) <= self.session._limits.max_frame_tokens
        return super().compute_and_send(action)

    def tree(self, num_tokens):
        """Tokens, the time and parents: each node right or wrong, siblings not always different."""
        parents = self.choose.draw(trees(num_tokens + 1))
        done = len(self.session.text) - len(self.request.prompt_ids)
        right = [*self.expected[done:], *[0] * len(parents)]
        tokens = []
        for depth in row_depths(parents)[1:]:
            wrong = self.choose.draw(st.integers(0, VOCAB_SIZE - 1))
            tokens.append(right[depth - 1] if self.choose.draw(st.booleans()) else wrong)
        return tuple(tokens), 0.0, parents if tokens else ()


@settings(max_examples=150, deadline=None)
@given(
    request=requests,
    chunk_tokens=st.one_of(st.none(), st.integers(1, 20)),
    max_frame_tokens=st.integers(1, 64),
    num_draft_tokens=st.integers(0, 10),
    may_be_lost=st.booleans(),
    choose=st.data(),
)
def test_trees_change_no_token(
    request, chunk_tokens, max_frame_tokens, num_draft_tokens, may_be_lost, choose
):
    limits = SessionLimits(CONTEXT, max_frame_tokens, 3, feeds_output_layers=False)
    planner, draft_length = FixedSizePlanner(chunk_tokens), FixedDraftLength(num_draft_tokens)
    session = Session(request, limits, planner, draft_length)
    world = TreeWorld(session, request, FakeDeviceEngine(), choose, may_be_lost=may_be_lost)
    actions = world.run()

    ids = [token.id for emission in world.emissions for token in emission.tokens]
    assert ids == world.expected
    assert session.phase is Phase.FINISHED
    finish = next(action for action in actions if isinstance(action, Finish))
    check_caches(world, finish.num_valid_tokens)
    for action in actions:
        if isinstance(action, ComputeAndSend):
            # What a place reserves: the last token is chosen and never computed.
            assert action.position + len(action.token_ids) <= CONTEXT - 1


def check_caches(world, num_valid_tokens):
    text = list(world.session.text)[:num_valid_tokens]
    assert world.engine.inputs[world.sequence][:num_valid_tokens] == text
    fresh = FakeMiddle()
    fresh.step(shallow_rows(text, 0), 0)
    assert world.middle.states[:num_valid_tokens] == fresh.states
