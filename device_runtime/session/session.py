"""The state machine of one generation: prefill in chunks, then rounds of draft, verify, commit.

It knows tokens and positions, and neither clock nor socket. Every method returns the actions to
perform next, in order; the last of them is the one whose answer the session waits for.

Positions: the text is prompt plus output, token i at position i. The cloud has seen all of it but
the last token, so a round sends that token and the draft behind it. What a rejected draft left in
the caches is cut off by the next round, which starts below their length.

While a draft waits for its decision, further rounds may be sent behind it, each of which begins
with a guess at the target's own token. They are of the same epoch. Once one of them turns out not
to follow, it and all behind it are forgotten: the next round has a higher epoch, by which the cloud
drops them and their replies are known.

A lost socket, or a lost cloud, is noticed where the session waits for it. What the cloud no longer
holds then goes up again in chunks, and the interrupted round follows with the draft it had; those
behind it are forgotten. Noise belongs to positions, so its tokens are those that it would have
chosen.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import takewhile

from chunking.planner import WAIT, Planner, Prefill
from device_runtime.generation.request import Emission, FinishReason, GenerationRequest, Token
from device_runtime.session.actions import (
    Action,
    AwaitReply,
    Choose,
    ComputeAndSend,
    Draft,
    Emit,
    FeedOutput,
    Reopen,
)
from device_runtime.session.draft_length import DraftLength
from device_runtime.session.pipelining import FixedPipelining, Pipelining, RoundOutcome
from device_runtime.session.prompt_scores import PromptScores
from device_runtime.session.rounds import Frame, Round, Window, until_stop
from wire.messages import Reply, Want


class Phase(Enum):
    """What the session waits for."""

    NEW = "new"
    PREFILLING = "prefilling"
    DRAFTING = "drafting"
    VERIFYING = "verifying"
    GUESSING = "guessing"
    """Drafting behind a draft that is being verified."""
    CHOOSING = "choosing"
    REOPENING = "reopening"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What engine, cloud and link allow a session.

    `max_frames_in_flight` bounds the frames without a reply. `feeds_output_layers` is set when the
    device has output layers, which need every deep row of the text: nothing is sent behind an
    undecided draft then, as the estimates behind it would mix with the target's own rows.
    """

    max_context_tokens: int
    max_frame_tokens: int
    max_frames_in_flight: int
    feeds_output_layers: bool


def num_new_tokens(request: GenerationRequest, max_context_tokens: int) -> int:
    """The most tokens the request can generate within the context.

    Raises:
        ValueError: no prompt, no room for a single token behind it, or `max_tokens` below 1.
    """
    num_prompt_tokens = len(request.prompt_ids)
    if not 1 <= num_prompt_tokens < max_context_tokens:
        expected = f"expected a prompt of 1 to {max_context_tokens - 1} tokens"
        raise ValueError(f"{expected}, got {num_prompt_tokens}")
    if request.max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {request.max_tokens}")
    return min(request.max_tokens, max_context_tokens - num_prompt_tokens)


class Session:
    """One generation, from the prompt to the last token.

    `num_cached_tokens` positions of the prompt are already in the caches of both sides, at most
    all but the last. `first_epoch` is above every epoch the cloud has seen in this session.
    """

    def __init__(
        self,
        request: GenerationRequest,
        limits: SessionLimits,
        planner: Planner,
        draft_length: DraftLength,
        pipelining: Pipelining | None = None,
        num_cached_tokens: int = 0,
        first_epoch: int = 1,
    ) -> None:
        self._num_new_tokens = num_new_tokens(request, limits.max_context_tokens)
        self._num_prompt_tokens = len(request.prompt_ids)
        if not 0 <= num_cached_tokens < self._num_prompt_tokens:
            expected = f"expected 0 to {self._num_prompt_tokens - 1} cached tokens"
            raise ValueError(f"{expected}, got {num_cached_tokens}")
        self.phase = Phase.NEW
        self.epoch = first_epoch
        self._text = list(request.prompt_ids)
        self.stop_token_ids = request.stop_token_ids
        self._limits = limits
        self._planner = planner
        self._draft_length = draft_length
        self._num_prefill_tokens = self._num_prompt_tokens
        self._num_sent_tokens = num_cached_tokens
        self.num_settled_tokens = num_cached_tokens
        """So much of the prompt is cached on both sides, and no frame begins before its end."""
        self._pipelining = pipelining or FixedPipelining(0)
        self._in_flight: deque[Frame] = deque()
        self.rounds = Window()
        self._max_draft_tokens = 0
        self._decided_s: float | None = None
        self._is_after_stale = False
        """Whether rows that were of no use may have delayed the round that is decided next."""
        self._queue_s = 0.0
        self.num_accepted = 0
        """Drafted tokens that the round decided last has kept."""
        self._num_valid_tokens = 0
        self.prompt_scores = PromptScores(request)

    @property
    def text(self) -> Sequence[int]:
        """Prompt and output so far."""
        return self._text

    @property
    def valid_text(self) -> Sequence[int]:
        """As much of it as both caches hold, once the last round is decided."""
        return self._text[: self._num_valid_tokens]

    def start(self) -> list[Action]:
        """Begin with the first chunk of the prompt."""
        self._expect(Phase.NEW)
        self.phase = Phase.PREFILLING
        return [self._next_prefill_action(0)]

    def on_sent(self, num_waiting_replies: int) -> list[Action]:
        """The frame is on its way; so many replies have come and were not yet taken."""
        if self.phase is Phase.VERIFYING:
            return [self._next_behind(num_waiting_replies)]
        self._expect(Phase.PREFILLING)
        return [self._next_prefill_action(num_waiting_replies)]

    def on_reply(self, reply: Reply, num_waiting_replies: int) -> list[Action]:
        """Take the reply awaited.

        Raises:
            RemoteProtocolError: it is not the answer to the oldest frame in flight.
        """
        frame = self._in_flight.popleft()
        frame.check(reply)
        first_row = frame.position + frame.num_tokens - reply.num_rows
        self._queue_s = reply.queue_s
        self.num_settled_tokens = min(frame.position + frame.num_tokens, self._num_prompt_tokens)
        scores = self.prompt_scores.scored_by(first_row, frame.position + frame.num_tokens)
        if frame.decides:
            self.phase = Phase.CHOOSING
            num_scored = sum(len(score.next_ids) for score in scores)
            return [*scores, Choose(first_row + num_scored, self.rounds.draft)]
        feed: list[Action] = [*scores]
        if reply.num_rows and not scores:
            feed = [FeedOutput(first_row)]
        if self.phase is Phase.VERIFYING:
            return [*feed, self._await_oldest()]
        self._expect(Phase.PREFILLING)
        return [*feed, self._next_prefill_action(num_waiting_replies)]

    def on_chosen(
        self, tokens: Sequence[Token], now: float, num_waiting_replies: int = 0
    ) -> list[Action]:
        """Commit a round's tokens: accepted ones of the draft, then one of the target's own.

        Fewer may come if a stop token ended the walk. `now` is a monotonic clock in seconds.
        """
        self._expect(Phase.CHOOSING)
        draft = self.rounds.draft
        self.num_accepted = num_accepted = self._checked_num_accepted(tokens)
        # Cached are the text before this round and the accepted drafts, not the token after them.
        self._num_valid_tokens = len(self._text) + num_accepted
        self._text.extend(token.id for token in tokens)
        reason = self._finish_reason()
        is_hit = self._end_round(num_accepted, now)
        told = self.prompt_scores.told()
        emit = Emit(Emission(tuple(tokens), reason, len(draft), num_accepted, told))
        if reason is None and is_hit:
            self.phase = Phase.VERIFYING
            return [emit, self._next_behind(num_waiting_replies)]
        self.rounds.forget_all()
        self._in_flight.clear()
        if reason is not None:
            self.phase = Phase.FINISHED
            return [emit]
        self.phase = Phase.DRAFTING
        self._max_draft_tokens = self._most_draft_tokens(self._draft_length.num_tokens())
        return [emit, Draft(self._max_draft_tokens)]

    def on_draft(
        self, draft: Sequence[int], started_s: float, num_waiting_replies: int = 0
    ) -> list[Action]:
        """Verify a draft, perhaps an empty one; drafting began at `started_s`.

        Behind undecided drafts its first token is a guess at the target's own.

        Raises:
            ValueError: more tokens than were asked for.
        """
        if len(draft) > self._max_draft_tokens:
            expected = f"expected a draft of at most {self._max_draft_tokens} tokens"
            raise ValueError(f"{expected}, got {len(draft)}")
        tokens = until_stop(draft, self.stop_token_ids)
        is_stopped = bool(tokens) and tokens[-1] in self.stop_token_ids
        may_go_on = (
            len(tokens) > 0
            and not is_stopped
            and self._draft_length.may_follow(len(tokens), self._max_draft_tokens)
        )
        if self.phase is Phase.GUESSING:
            self.phase = Phase.VERIFYING
            if not tokens or tokens[0] in self.stop_token_ids:
                self.rounds.has_nothing_behind()
                return [self._await_oldest()]
            self.rounds.kept = Round(tokens[0], tokens[1:], started_s, True, may_go_on)
            return [self._next_behind(num_waiting_replies)]
        self._expect(Phase.DRAFTING)
        self.epoch += 1
        self.rounds.begin(Round(self._text[-1], tokens, started_s, False, may_go_on))
        return [self._send_round()]

    def on_lost(self) -> list[Action]:
        """The cloud is gone under the action last returned, which will not be answered.

        Frames without a reply may have run or not, so the session goes on at the first of them.
        """
        is_waiting = self.phase in (Phase.PREFILLING, Phase.VERIFYING)
        assert is_waiting, f"a session {self.phase.value} does not wait for the cloud"
        self.phase = Phase.REOPENING
        if self._in_flight:
            self._num_sent_tokens = self._in_flight[0].position
        self._in_flight.clear()
        # The time of this round says nothing about what drafts are worth.
        self.rounds.forget_behind()
        self._decided_s = None
        return [Reopen()]

    def on_reopened(self, num_cached_tokens: int, max_frame_tokens: int) -> list[Action]:
        """Go on where the cloud is: it holds `num_cached_tokens` positions, perhaps none.

        Output layers forget what is computed again here, so its deep rows come down again too.
        Source: rule W28 of docs/wire-protocol.md.
        """
        self._expect(Phase.REOPENING)
        self.phase = Phase.PREFILLING
        self.epoch += 1
        self._limits = replace(self._limits, max_frame_tokens=max_frame_tokens)
        self.rounds.forget_behind(max_frame_tokens)
        self._num_sent_tokens = min(self._num_sent_tokens, num_cached_tokens)
        self.num_settled_tokens = min(self._num_sent_tokens, self._num_prompt_tokens)
        if self._is_in_round:
            self._num_prefill_tokens = len(self._text) - 1
        return [self._next_prefill_action(0)]

    @property
    def _is_in_round(self) -> bool:
        """Whether the prompt is done and tokens are decided by rounds."""
        return len(self._text) > self._num_prompt_tokens

    def _next_prefill_action(self, num_waiting_replies: int) -> Action:
        """The next chunk, or the round after a replay, unless a reply should be taken first."""
        num_remaining = self._num_prefill_tokens - self._num_sent_tokens
        is_window_full = len(self._in_flight) >= self._limits.max_frames_in_flight
        if is_window_full or (num_waiting_replies and self._in_flight):
            return self._await_oldest()
        if num_remaining == 0:
            return self._send_round() if self._is_in_round else self._await_oldest()
        prefill = Prefill(self._num_prefill_tokens, num_remaining, len(self._in_flight))
        planned = self._planner.next_chunk_tokens(prefill)
        if planned == WAIT and self._in_flight:
            return self._await_oldest()
        num_tokens = max(1, min(planned, num_remaining, self._limits.max_frame_tokens))
        position = self._num_sent_tokens
        self._num_sent_tokens += num_tokens
        is_last = num_tokens == num_remaining
        want = Want.LAST if is_last and not self._is_in_round else Want.NONE
        if self._limits.feeds_output_layers or self.prompt_scores.are_wanted:
            want = Want.ALL
        return self._send(position, tuple(self._text[position : position + num_tokens]), want)

    def _send_round(self) -> Action:
        """The last token, which neither cache holds yet, and the draft behind it."""
        self.phase = Phase.VERIFYING
        assert self.rounds.first is not None, "a round is decided next"
        return self._send(len(self._text) - 1, self.rounds.first.token_ids, Want.ALL)

    def _next_behind(self, num_waiting_replies: int) -> Action:
        """What is done while a round is verified: send another behind it, draft one, or wait."""
        if self.rounds.first is None:
            self.rounds.send_kept()
            return self._send_round()
        if num_waiting_replies:
            return self._await_oldest()
        undecided = self.rounds.undecided
        if self.rounds.kept is not None:
            position = len(self._text) + len(undecided)
            return self._send(position, self.rounds.send_kept().token_ids, Want.ALL)
        self._max_draft_tokens = self._most_guessed_tokens()
        if self._max_draft_tokens <= 0:
            return self._await_oldest()
        self.phase = Phase.GUESSING
        return Draft(self._max_draft_tokens, undecided)

    def _most_guessed_tokens(self) -> int:
        """As many as any draft has, the first of them a guess at the target's own token."""
        is_full = len(self._in_flight) >= self._limits.max_frames_in_flight
        may_go_on = self.rounds.last.may_go_on and not self._limits.feeds_output_layers
        if not may_go_on or is_full or self.rounds.num_sent > self._pipelining.num_behind():
            return 0
        return self._most_draft_tokens(self._draft_length.num_tokens(), is_guess=True)

    def _end_round(self, num_accepted: int, now: float) -> bool:
        """Tell what a round has brought; whether the one behind it is the next."""
        interval_s = None if self._decided_s is None else now - self._decided_s
        self._decided_s = now
        if self.rounds.first is None:
            return False
        over, is_hit = self.rounds.decide(self._text, num_accepted)
        num_behind = self.rounds.num_sent + (self.rounds.kept is not None)
        is_alone = num_behind == 0 and not self._is_after_stale
        self._is_after_stale = num_behind > 0
        if over.started_s is not None and not over.is_behind:
            round_s = now - over.started_s if is_alone else None
            self._draft_length.on_round(len(over.draft), num_accepted, round_s)
        self._pipelining.on_round(
            RoundOutcome(
                num_drafted=len(over.draft),
                num_accepted=num_accepted,
                may_go_on=over.may_go_on,
                num_behind=num_behind,
                is_hit=is_hit,
                interval_s=interval_s,
                queue_s=None if over.is_behind else self._queue_s,
            )
        )
        return is_hit

    def _send(self, position: int, token_ids: tuple[int, ...], want: Want) -> Action:
        is_verify = self.phase is Phase.VERIFYING
        num_tokens = len(token_ids)
        decides = is_verify or position + num_tokens == len(self._text)
        self._in_flight.append(Frame(self.epoch, position, num_tokens, want, decides))
        return ComputeAndSend(self.epoch, position, token_ids, want, is_verify)

    def _await_oldest(self) -> Action:
        return AwaitReply(self._in_flight[0].epoch, self._in_flight[0].position)

    def _checked_num_accepted(self, tokens: Sequence[Token]) -> int:
        """How many of the draft's tokens lead the chosen ones; all but the last must."""
        ids = [token.id for token in tokens]
        pairs = zip(ids, self.rounds.draft, strict=False)
        num_accepted = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        is_stopped = len(ids) == num_accepted > 0 and ids[-1] in self.stop_token_ids
        if len(ids) != num_accepted + 1 and not is_stopped:
            raise ValueError(f"expected accepted drafts and one token, got {len(ids)} tokens")
        return num_accepted

    def _finish_reason(self) -> FinishReason | None:
        if self._text[-1] in self.stop_token_ids:
            return "stop"
        num_generated = len(self._text) - self._num_prompt_tokens
        return "length" if num_generated == self._num_new_tokens else None

    def _most_draft_tokens(self, num_wanted: int, is_guess: bool = False) -> int:
        """A round decides one token more than it drafts, so the last token is never drafted.

        A frame has the text's last token before its draft, or a guess that begins the draft.
        """
        num_decided = len(self._text) - self._num_prompt_tokens
        num_left = self._num_new_tokens - num_decided - len(self.rounds.undecided)
        most = min(num_left - 1, self._limits.max_frame_tokens - (not is_guess))
        return max(0, min(num_wanted, most))

    def _expect(self, phase: Phase) -> None:
        assert self.phase is phase, f"expected a session {phase.value}, got {self.phase.value}"
