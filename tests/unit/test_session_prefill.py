"""How a prompt goes up: asked before every chunk, and rows come back while later chunks go."""

from dataclasses import dataclass, field

from chunking.chooser import ChunkChooser
from chunking.cost import Backlog, LinearTime
from chunking.estimates import Estimates
from chunking.planner import WAIT, FixedSizePlanner, Prefill
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.session.actions import AwaitReply, Choose, ComputeAndSend, FeedOutput
from device_runtime.session.draft_length import FixedDraftLength
from device_runtime.session.session import Session, SessionLimits
from tests.support.replies import reply
from wire.messages import Want

PROMPT = (5, 6, 7, 8, 9, 10)


@dataclass
class ScriptedPlanner:
    """Gives its answers in order, and keeps what it was told."""

    answers: list[int]
    told: list[Prefill] = field(default_factory=list)

    def next_chunk_tokens(self, prefill: Prefill) -> int:
        """The next of the answers."""
        self.told.append(prefill)
        return self.answers.pop(0)


def make_session(planner, feeds_output_layers=False):
    request = GenerationRequest(PROMPT, 10, SamplingParams())
    limits = SessionLimits(32, 16, 4, feeds_output_layers)
    return Session(request, limits, planner, FixedDraftLength(0))


def test_with_output_layers_every_row_comes_back_and_is_fed_while_later_chunks_go_up():
    session = make_session(FixedSizePlanner(2), feeds_output_layers=True)
    assert session.start() == [ComputeAndSend(1, 0, (5, 6), Want.ALL)]
    assert session.on_sent(0) == [ComputeAndSend(1, 2, (7, 8), Want.ALL)]
    # The first reply is here: its rows are fed, and only then does the last chunk go up.
    assert session.on_sent(1) == [AwaitReply(1, 0)]
    fed_and_sent = session.on_reply(reply(1, 0, 2, 2), 0)
    assert fed_and_sent == [FeedOutput(0), ComputeAndSend(1, 4, (9, 10), Want.ALL)]
    assert session.on_sent(0) == [AwaitReply(1, 2)]
    assert session.on_reply(reply(1, 2, 2, 4), 0) == [FeedOutput(2), AwaitReply(1, 4)]
    assert session.on_reply(reply(1, 4, 2, 6), 0) == [Choose(4, ())]


def test_a_planner_that_waits_is_asked_again_after_the_next_reply():
    planner = ScriptedPlanner([2, WAIT, 4])
    session = make_session(planner)
    session.start()
    assert session.on_sent(0) == [AwaitReply(1, 0)]
    assert session.on_reply(reply(1, 0, 0, 2), 0) == [
        ComputeAndSend(1, 2, (7, 8, 9, 10), Want.LAST)
    ]
    assert [(told.num_remaining_tokens, told.num_in_flight) for told in planner.told] == [
        (6, 0),
        (4, 1),
        (4, 0),
    ]


def test_nothing_to_wait_for_is_one_token_at_least():
    session = make_session(ScriptedPlanner([WAIT]))
    assert session.start() == [ComputeAndSend(1, 0, (5,), Want.NONE)]


KNOWN = Estimates(
    token_bytes=10,
    uplink_bytes_per_s=100.0,
    delay_s=1.0,
    cloud_step=LinearTime(2.0, 0.0),
    prefill=LinearTime(0.0, 0.5),
)


def test_a_chooser_tells_what_is_on_its_way_and_records_what_was_chosen():
    planner = ScriptedPlanner([10, 4, 7, 3])
    clock, came = [100.0], [0.0]
    chooser = ChunkChooser(
        planner, lambda: KNOWN, lambda: clock[0], lambda: came[0], max_frame_tokens=5
    )
    assert chooser.next_chunk_tokens(Prefill(20, 20, 0)) == 5
    assert chooser.next_chunk_tokens(Prefill(20, 15, 1)) == 4
    first, second = planner.told
    assert (first.backlog.device_s, first.backlog.uplink_s, first.next_reply_s) == (0, 0, 0)
    # 5 tokens: 2.5 s on the device, 0.5 s up, 2 s in the cloud, 1 s of delay.
    assert (second.backlog.device_s, second.backlog.uplink_s) == (2.5, 3.0)
    assert (second.backlog.cloud_s, second.next_reply_s) == (5.0, 6.0)
    # The first was answered after 6 s; the second has been computed and sent, and is in the cloud.
    came[0] = 106.0
    clock[0] = 106.5
    chooser.next_chunk_tokens(Prefill(20, 11, 1))
    third = planner.told[-1].backlog
    assert (third.device_s, third.uplink_s) == (0.0, 0.0)
    assert third.cloud_s == 0.5
    assert [choice.num_tokens for choice in chooser.choices] == [5, 4, 5]
    assert all(choice.estimates == KNOWN for choice in chooser.choices)


def test_a_chooser_tells_what_was_sent_and_forgets_it_when_the_prompt_is_sent_anew():
    planner = ScriptedPlanner([4, 9, 6, 3])
    chooser = ChunkChooser(planner, lambda: KNOWN, lambda: 1.0, lambda: 1.0, max_frame_tokens=8)
    chooser.next_chunk_tokens(Prefill(20, 20, 0))
    chooser.next_chunk_tokens(Prefill(20, 16, 1))
    chooser.next_chunk_tokens(Prefill(20, 20, 0))
    chooser.next_chunk_tokens(Prefill(20, 14, 1))
    assert [told.sent for told in planner.told] == [(), (4,), (), (6,)]
    assert {told.max_chunk_tokens for told in planner.told} == {8}


def test_a_chunk_may_wait_only_while_the_uplink_has_enough_to_do():
    def state(uplink_s, next_reply_s, num_in_flight=1):
        return Prefill(20, 10, num_in_flight, KNOWN, Backlog(0.0, uplink_s, 0.0), next_reply_s)

    # Four tokens take 2 s to compute; twice that and a moment must be left.
    assert state(10.0, 5.0).can_wait_with(4)
    assert not state(10.0, 6.0).can_wait_with(4)
    assert not state(10.0, 5.0, num_in_flight=0).can_wait_with(4)
    assert not Prefill(20, 10, 1).can_wait_with(4)
