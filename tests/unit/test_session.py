import pytest

from chunking.planner import FixedSizePlanner
from device_runtime.generation.request import Emission, GenerationRequest, SamplingParams, Token
from device_runtime.session.actions import (
    AwaitReply,
    Choose,
    ComputeAndSend,
    Draft,
    Emit,
    Reopen,
)
from device_runtime.session.draft_length import FixedDraftLength
from device_runtime.session.session import Session, SessionLimits
from tests.support.replies import reply
from wire.messages import Want


def make_session(prompt=(5, 6, 7), max_tokens=10, stop=(), num_drafts=2, **cached):
    request = GenerationRequest(prompt, max_tokens, SamplingParams(), frozenset(stop))
    limits = SessionLimits(32, 16, 4, feeds_output_layers=False)
    return Session(request, limits, FixedSizePlanner(2), FixedDraftLength(num_drafts), **cached)


def prefilled(session):
    session.start()
    session.on_sent(0)
    session.on_sent(0)
    session.on_reply(reply(1, 0, 0, 2), 0)
    assert session.on_reply(reply(1, 2, 1, 3), 0) == [Choose(2, ())]
    return session


def test_chunks_go_up_before_the_first_reply_and_only_the_last_wants_a_row():
    session = make_session()
    assert session.start() == [ComputeAndSend(1, 0, (5, 6), Want.NONE)]
    assert session.on_sent(0) == [ComputeAndSend(1, 2, (7,), Want.LAST)]
    assert session.on_sent(0) == [AwaitReply(1, 0)]


def test_a_reply_that_waits_is_taken_before_the_next_chunk():
    session = make_session()
    session.start()
    assert session.on_sent(1) == [AwaitReply(1, 0)]
    assert session.on_reply(reply(1, 0, 0, 2), 0) == [ComputeAndSend(1, 2, (7,), Want.LAST)]


def test_a_round_sends_the_last_token_and_the_draft_under_a_new_epoch():
    session = prefilled(make_session())
    assert session.on_chosen([Token(1)], 0.0) == [Emit(Emission((Token(1),))), Draft(2)]
    assert session.on_draft((2, 3), 0.0) == [
        ComputeAndSend(2, 3, (1, 2, 3), Want.ALL, is_verify=True)
    ]
    assert session.on_sent(0) == [AwaitReply(2, 3)]
    assert session.on_reply(reply(2, 3, 3, 6), 0) == [Choose(3, (2, 3))]
    tokens = [Token(2), Token(9)]
    assert session.on_chosen(tokens, 0.0) == [Emit(Emission(tuple(tokens), None, 2, 1)), Draft(2)]
    assert session.on_draft((), 0.0) == [ComputeAndSend(3, 5, (9,), Want.ALL, is_verify=True)]


def test_a_stop_token_in_the_draft_ends_the_draft_and_in_the_text_ends_the_session():
    session = prefilled(make_session(stop=(2,)))
    session.on_chosen([Token(1)], 0.0)
    assert session.on_draft((2, 3), 0.0) == [ComputeAndSend(2, 3, (1, 2), Want.ALL, is_verify=True)]
    session.on_sent(0)
    session.on_reply(reply(2, 3, 2, 5), 0)
    emission = Emission((Token(2),), "stop", 1, 1)
    assert session.on_chosen([Token(2)], 0.0) == [Emit(emission)]
    assert len(session.valid_text) == 5


def test_nothing_is_drafted_for_the_last_token():
    session = prefilled(make_session(max_tokens=2))
    assert session.on_chosen([Token(1)], 0.0)[-1] == Draft(0)
    session.on_draft((), 0.0)
    session.on_sent(0)
    session.on_reply(reply(2, 3, 1, 4), 0)
    emission = Emission((Token(8),), "length")
    assert session.on_chosen([Token(8)], 0.0) == [Emit(emission)]
    assert len(session.valid_text) == 4


def test_the_end_of_the_context_is_a_length_finish():
    limits = SessionLimits(4, 16, 4, feeds_output_layers=False)
    request = GenerationRequest((1, 2, 3), 100, SamplingParams())
    session = Session(request, limits, FixedSizePlanner(None), FixedDraftLength(2))
    session.start()
    session.on_sent(0)
    session.on_reply(reply(1, 0, 1, 3), 0)
    assert session.on_chosen([Token(8)], 0.0)[-1] == Emit(Emission((Token(8),), "length"))


@pytest.mark.parametrize("prompt", [(), range(32), range(40)])
def test_a_prompt_that_leaves_no_room_is_refused(prompt):
    with pytest.raises(ValueError, match="expected a prompt of 1 to 31 tokens"):
        make_session(prompt=tuple(prompt))


def test_less_than_one_token_is_refused():
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        make_session(max_tokens=0)


def test_a_prompt_that_is_cached_to_its_last_token_is_refused():
    with pytest.raises(ValueError, match="expected 0 to 2 cached tokens"):
        make_session(num_cached_tokens=3)


def test_a_draft_longer_than_asked_for_is_refused():
    session = prefilled(make_session())
    session.on_chosen([Token(1)], 0.0)
    with pytest.raises(ValueError, match="at most 2 tokens, got 3"):
        session.on_draft((1, 2, 3), 0.0)


@pytest.mark.parametrize("tokens", [[], [2], [9, 9], [2, 3, 4, 5]])
def test_tokens_that_are_not_a_walk_over_the_draft_are_refused(tokens):
    session = prefilled(make_session())
    session.on_chosen([Token(1)], 0.0)
    session.on_draft((2, 3), 0.0)
    session.on_sent(0)
    session.on_reply(reply(2, 3, 3, 6), 0)
    with pytest.raises(ValueError, match="accepted drafts and one token"):
        session.on_chosen([Token(token) for token in tokens], 0.0)


def test_a_call_out_of_turn_is_a_bug_and_says_so():
    session = make_session()
    with pytest.raises(AssertionError, match="expected a session drafting, got new"):
        session.on_draft((), 0.0)


def lost_in_a_round(num_drafts=2):
    session = prefilled(make_session(num_drafts=num_drafts))
    session.on_chosen([Token(1)], 0.0)
    session.on_draft((2, 3)[:num_drafts], 0.0)
    session.on_sent(0)
    assert session.on_lost() == [Reopen()]
    return session


def test_a_round_lost_with_its_socket_is_sent_again_under_a_new_epoch():
    session = lost_in_a_round()
    frame = ComputeAndSend(3, 3, (1, 2, 3), Want.ALL, is_verify=True)
    assert session.on_reopened(num_cached_tokens=6, max_frame_tokens=16) == [frame]
    assert session.on_sent(0) == [AwaitReply(3, 3)]
    assert session.on_reply(reply(3, 3, 3, 6), 0) == [Choose(3, (2, 3))]


def test_what_a_lost_cloud_had_cached_goes_up_in_chunks_and_the_round_follows_at_once():
    session = lost_in_a_round()
    chunk = ComputeAndSend(3, 0, (5, 6), Want.NONE)
    assert session.on_reopened(num_cached_tokens=0, max_frame_tokens=16) == [chunk]
    assert session.on_sent(0) == [ComputeAndSend(3, 2, (7,), Want.NONE)]
    frame = ComputeAndSend(3, 3, (1, 2, 3), Want.ALL, is_verify=True)
    assert session.on_sent(0) == [frame]
    assert session.on_sent(0) == [AwaitReply(3, 0)]
    assert session.on_reply(reply(3, 0, 0, 2), 0) == [AwaitReply(3, 2)]
    assert session.on_reply(reply(3, 2, 0, 3), 0) == [AwaitReply(3, 3)]
    assert session.on_reply(reply(3, 3, 3, 6), 0) == [Choose(3, (2, 3))]


def test_a_draft_longer_than_the_new_cloud_takes_is_shortened():
    session = lost_in_a_round()
    frame = ComputeAndSend(3, 3, (1, 2), Want.ALL, is_verify=True)
    assert session.on_reopened(num_cached_tokens=3, max_frame_tokens=2) == [frame]


def test_a_lost_prompt_goes_on_at_the_first_chunk_without_a_reply():
    session = make_session()
    session.start()
    session.on_sent(1)
    session.on_reply(reply(1, 0, 0, 2), 0)
    assert session.on_lost() == [Reopen()]
    # The cloud says it has all three, but the last may be of an earlier generation.
    again = ComputeAndSend(2, 2, (7,), Want.LAST)
    assert session.on_reopened(num_cached_tokens=3, max_frame_tokens=16) == [again]


def test_nothing_is_lost_while_nothing_is_awaited():
    with pytest.raises(AssertionError, match="does not wait for the cloud"):
        make_session().on_lost()
