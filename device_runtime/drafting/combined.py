"""Several drafters as one: each round is drafted by whom the policy says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from device_runtime.drafting.guess import Guess
from device_runtime.drafting.policy.policy import DraftPolicy, Outcome, Plan
from device_runtime.drafting.protocol import Drafter
from device_runtime.engines.engine import DeviceEngine, Rows, SequenceId, Workers
from device_runtime.generation.stats import DraftCounts
from device_runtime.session.actions import ComputeAndSend
from process.world import Clock

_ROWS_PER_PREPARATION = 32

_ROUNDS_PER_PREPARATION = 16
"""A drafter that is not in use is brought up to the text this often, while the cloud is waited for:
rarely enough to delay no reply, often enough that a try costs a step and not a long text."""


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

    @property
    def num_begun(self) -> int:
        """Tokens that the next proposal begins with and that are computed already."""
        ...

    def go_on_behind(self, draft: Sequence[int]) -> None:
        """Have the next proposal begin with a draft that was made elsewhere."""
        ...


@dataclass(slots=True)
class _Round:
    """A draft under way: its plan, what was sent, and what a probe said that was not sent."""

    plan: Plan
    draft: tuple[int, ...] = ()
    num_steps: int = 0
    probed: tuple[int, ...] = ()
    draft_s: float = 0.0


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
    ) -> None:
        self._policy = policy
        self._max_tokens = max_tokens
        self._clock = clock
        self._guesser = guesser
        self._stepper = stepper
        self.guessed, self.stepped = DraftCounts(), DraftCounts()
        """What came of the tokens of either."""
        self._guesses: tuple[Guess, ...] = ()
        self._decided: list[tuple[tuple[Guess, ...], tuple[int, ...]]] = []
        self._plan = Plan()
        self._round: _Round | None = None
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
            self._guesses = self._guesser.behind()

    def num_tokens(self) -> int:
        """As many as the next plan sends."""
        self._learn_of_guesses()
        num_begun = 0 if self._stepper is None else self._stepper.num_begun
        self._plan = self._policy.plan(self._guesses, self._max_tokens, num_begun)
        return self._plan.num_tokens

    def on_round(self, num_drafted: int, num_accepted: int, round_s: float | None) -> None:
        """Learn from a round, unless it was sent behind one that was not decided."""
        now, self._round = self._round, None
        if now is None or not self._decided:
            return
        came = self._decided[0][1]
        self._learn_of_steps(now, came)
        num_guessed = min(now.plan.num_guesses, num_drafted)
        self.guessed.drafted += num_guessed
        self.guessed.accepted += min(num_guessed, num_accepted)
        self.stepped.drafted += num_drafted - num_guessed
        self.stepped.accepted += max(num_accepted - num_guessed, 0)
        outcome = Outcome(num_drafted, num_accepted, now.num_steps, now.draft_s, round_s)
        self._policy.on_round(now.plan, outcome)

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        if num_undecided:
            return await self._behind(workers, sequence, text, num_tokens, num_undecided)
        started_s = self._clock()
        plan = self._plan
        if num_tokens < plan.num_tokens:
            num_guesses = min(plan.num_guesses, num_tokens)
            plan = Plan(num_guesses, min(plan.num_steps, num_tokens - num_guesses))
        now = _Round(plan, tuple(guess.token_id for guess in self._guesses[: plan.num_guesses]))
        if plan.num_steps and self._stepper is not None:
            await self._take_steps(now, self._stepper, workers, sequence, text)
        now.draft_s = self._clock() - started_s
        self._round = now
        return now.draft

    async def work(self, workers: Workers, sequence: SequenceId, sent: ComputeAndSend) -> bool:
        if self._stepper is None:
            return False
        if self._policy.uses_steps:
            return await self._stepper.work(workers, sequence, sent)
        return await self._prepare(workers, sequence, sent)

    async def _behind(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int,
    ) -> tuple[int, ...]:
        """A draft behind one that is not decided: by guesses if they are good, else by steps."""
        guesser, undecided = self._guesser, text[len(text) - num_undecided :]
        guesses: tuple[Guess, ...] = ()
        if guesser is not None:
            guesses = await workers.run(lambda _: guesser.behind(undecided))
        plan = self._policy.plan(guesses, num_tokens)
        if plan.num_guesses or self._stepper is None or plan.is_probe:
            return tuple(guess.token_id for guess in guesses[: plan.num_guesses])
        return await self._stepper.propose(
            workers, sequence, text, min(plan.num_steps, num_tokens), num_undecided
        )

    async def _take_steps(
        self,
        now: _Round,
        stepper: Stepper,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
    ) -> None:
        plan = now.plan
        if plan.is_shadow:
            now.probed = await stepper.propose(workers, sequence, text, 1)
            now.num_steps = 1
            return
        num_begun = 0 if now.draft else stepper.num_begun
        if now.draft:
            stepper.go_on_behind(now.draft)
        num_guesses = len(now.draft)
        now.draft = await stepper.propose(workers, sequence, text, num_guesses + plan.num_steps)
        num_stepped = len(now.draft) - num_guesses
        is_stopped = num_stepped < plan.num_steps
        now.num_steps = max(0, num_stepped - num_begun) + is_stopped
        for _ in range(num_stepped):
            self._policy.on_stop(is_stopped=False)
        if is_stopped:
            self._policy.on_stop(is_stopped=True)
        if plan.is_probe:
            now.probed = now.draft

    def _learn_of_guesses(self) -> None:
        """Hold what was decided against what was guessed before."""
        for guesses, came in self._decided:
            for guess, token in zip(guesses, came, strict=False):
                self._policy.on_guess(guess.evidence, guess.token_id == token)
                if guess.token_id != token:
                    break
        self._decided.clear()

    def _learn_of_steps(self, now: _Round, came: Sequence[int]) -> None:
        plan = now.plan
        if plan.is_probe:
            is_right = now.probed[:1] == tuple(came[:1])
            if now.probed:
                self._policy.on_step(is_right)
            return
        for place, (drafted, token) in enumerate(zip(now.draft, came, strict=False)):
            if place >= plan.num_guesses:
                self._policy.on_step(drafted == token)
            if drafted != token:
                break

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
