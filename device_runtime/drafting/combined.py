"""Several drafters as one: at each place of a draft speaks who is believed most for its cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from device_runtime.drafting.building import DraftBuilder, Drafted, Made, Steps
from device_runtime.drafting.guess import Guess
from device_runtime.drafting.policy.policy import DraftPolicy, Outcome
from device_runtime.drafting.protocol import Drafter
from device_runtime.engines.engine import DeviceEngine, Rows, SequenceId, Workers
from device_runtime.generation.grammar import Constraint
from device_runtime.generation.stats import DraftCounts
from device_runtime.session.actions import ComputeAndSend
from process.world import Clock

_ROWS_PER_PREPARATION = 32

_ROUNDS_PER_PREPARATION = 16
"""A drafter that is not in use is brought up to the text this often, while the cloud is waited for:
rarely enough to delay no reply, often enough that a try costs a step and not a long text."""

_LEAST_SURVIVAL = 0.2
"""Behind a draft that is less likely to be right as a whole nothing is sent on."""


class Guesser(Protocol):
    """A drafter whose guesses cost next to nothing; on the engine's thread."""

    def begin(self, prompt_ids: Sequence[int]) -> None:
        """Take the prompt."""
        ...

    def decided(self, token_ids: Sequence[int]) -> None:
        """Take the tokens that follow."""
        ...

    def behind(self, begun: Sequence[int] = ()) -> tuple[Guess, ...]:
        """What may follow the text and a draft begun behind it."""
        ...


class Stepper(Drafter, Protocol):
    """A drafter that computes, token by token."""

    def steps_behind(
        self, sequence: SequenceId, text: Sequence[int], num_undecided: int
    ) -> tuple[Steps, Sequence[Drafted]]:
        """Its steps for one draft behind a text, and those that were taken before it was asked."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of how the target chooses: the tokens it penalises, those it ends with, and
    the grammar that it follows.

    `is_penalised` says whether a token is, behind a draft; None: none ever is.
    """

    is_penalised: Callable[[int, Sequence[int]], bool] | None = None
    stop_token_ids: frozenset[int] = frozenset()
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class _Round:
    """A draft under way."""

    made: Made
    draft_s: float


class CombinedDrafter:
    """The drafts of one generation, and their lengths: a `Drafter` and a `DraftLength`.

    What is decided is held against the guesses that there were, whoever drafted. The engine's
    thread only notes it; the policy learns where it is asked.
    """

    def __init__(
        self,
        policy: DraftPolicy,
        max_tokens: int,
        clock: Clock,
        guesser: Guesser | None = None,
        stepper: Stepper | None = None,
        target: Target | None = None,
    ) -> None:
        self._policy = policy
        self._max_tokens = max_tokens
        self._clock = clock
        self._guesser = guesser
        self._stepper = stepper
        self._target = target or Target()
        self.guessed, self.stepped = DraftCounts(), DraftCounts()
        """What came of the tokens of either."""
        self._guesses: tuple[Guess, ...] = ()
        self._decided: list[tuple[tuple[Guess, ...], tuple[int, ...]]] = []
        self._round: _Round | None = None
        self._survival = 0.0
        self._last_sent: ComputeAndSend | None = None
        self._rounds_to_prepare = 0

    @property
    def num_ahead_tokens(self) -> int:
        """Tokens drafted while a verification was under way."""
        return 0 if self._stepper is None else self._stepper.num_ahead_tokens

    def begin(self, prompt_ids: Sequence[int]) -> None:
        if self._guesser is not None:
            self._guesser.begin(prompt_ids)
        if self._stepper is not None:
            self._stepper.begin(prompt_ids)

    def decided(self, token_ids: Sequence[int], deep: Rows) -> None:
        self._decided.append((self._guesses, tuple(token_ids)))
        if self._stepper is not None:
            self._stepper.decided(token_ids, deep)
        if self._guesser is not None:
            self._guesser.decided(token_ids)
            self._guesses = self._behind(())

    def num_tokens(self) -> int:
        """The most tokens that the next draft may have."""
        self._learn_of_guesses()
        return self._policy.most_tokens(self._max_tokens)

    def may_follow(self, num_drafted: int, num_asked: int) -> bool:
        """Whether the draft made last is likely enough to be right that another may be sent on."""
        return self._survival >= _LEAST_SURVIVAL

    def on_round(self, num_drafted: int, num_accepted: int, round_s: float | None) -> None:
        """Learn from a round, unless it was sent behind one that was not decided."""
        now, self._round = self._round, None
        if now is None or not self._decided:
            return
        made = now.made
        self._learn_of_draft(made, self._decided[0][1])
        for place, is_step in enumerate(made.is_step[:num_drafted]):
            counts = self.stepped if is_step else self.guessed
            counts.drafted += 1
            counts.accepted += place < num_accepted
        self._policy.on_round(
            Outcome(
                num_rows=num_drafted,
                num_accepted=num_accepted,
                num_steps=made.num_passes,
                has_steps=len(made.classes) > 0,
                draft_s=now.draft_s,
                round_s=round_s,
            )
        )

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        started_s = self._clock()
        made = await self._made(workers, sequence, text, num_tokens, num_undecided)
        self._survival = made.survival if made.draft else 0.0
        if not num_undecided:
            self._round = _Round(made, self._clock() - started_s)
        return tuple(made.draft)

    async def work(self, workers: Workers, sequence: SequenceId, sent: ComputeAndSend) -> bool:
        if self._stepper is None:
            return False
        if self._policy.uses_steps:
            return await self._stepper.work(workers, sequence, sent)
        return await self._prepare(workers, sequence, sent)

    async def _made(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int,
    ) -> Made:
        """The next draft, behind undecided tokens too."""
        rule = self._policy.rule(num_tokens, is_behind=num_undecided > 0)
        if rule.max_tokens <= 0:
            return Made()
        stepper, undecided = self._stepper, tuple(text[len(text) - num_undecided :])
        guesses = self._guesses
        if num_undecided:
            guesses = await workers.run(lambda _: self._behind(undecided))
        steps: Steps | None = None
        begun: Sequence[Drafted] = ()
        if stepper is not None:
            steps, begun = stepper.steps_behind(sequence, text, num_undecided)
        builder = DraftBuilder(
            rule,
            guesses,
            lambda draft: self._behind((*undecided, *draft)),
            self._target.stop_token_ids,
            begun,
        )
        if builder.wants_engine() and steps is not None:
            drafts = steps
            await workers.run(lambda engine: builder.finish(engine, drafts))
        return builder.made

    def _behind(self, begun: Sequence[int]) -> tuple[Guess, ...]:
        """What may follow the text and a draft; those of penalised tokens are classes apart."""
        if self._guesser is None:
            return ()
        guesses, is_penalised = self._guesser.behind(begun), self._target.is_penalised
        if self._target.constraint is not None:
            tokens = [guess.token_id for guess in guesses]
            guesses = guesses[: self._target.constraint.num_valid(begun, tokens)]
        if is_penalised is None:
            return guesses
        behind, told = list(begun), []
        for guess in guesses:
            shift = self._policy.num_evidences if is_penalised(guess.token_id, behind) else 0
            told.append(Guess(guess.token_id, guess.evidence + shift))
            behind.append(guess.token_id)
        return tuple(told)

    def _learn_of_guesses(self) -> None:
        """Hold what was decided against what was guessed before."""
        for guesses, came in self._decided:
            for guess, token in zip(guesses, came, strict=False):
                self._policy.on_guess(guess.evidence, guess.token_id == token)
                if guess.token_id != token:
                    break
        self._decided.clear()

    def _learn_of_draft(self, made: Made, came: Sequence[int]) -> None:
        """Hold what was decided against all that was said of places that count."""
        pairs = zip(made.draft, came, strict=False)
        num_right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        num_known = min(num_right + 1, len(came))
        for seen in made.guesses:
            if seen.place < num_known:
                self._policy.on_guess(seen.kind, seen.token_id == came[seen.place])
        for seen in made.steps:
            if seen.place < num_known:
                self._policy.on_step(seen.kind, seen.token_id == came[seen.place])
        for step_class in made.classes:
            self._policy.on_class(step_class)

    async def _prepare(self, workers: Workers, sequence: SequenceId, sent: ComputeAndSend) -> bool:
        """Bring a drafter that is not in use up to what was sent, now and then."""
        if sent is not self._last_sent:
            self._last_sent = sent
            self._rounds_to_prepare -= 1
        if sent.is_verify and self._rounds_to_prepare > 0:
            return False

        def prepare(engine: DeviceEngine) -> bool:
            return engine.prepare_draft(sequence, _ROWS_PER_PREPARATION)

        is_behind = await workers.run(prepare)
        if not is_behind and sent.is_verify:
            self._rounds_to_prepare = _ROUNDS_PER_PREPARATION
        return is_behind
