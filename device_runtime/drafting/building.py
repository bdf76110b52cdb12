"""One draft as it is made, place by place: the next guess, the next step's token, or its end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from device_runtime.drafting.guess import Guess
from device_runtime.drafting.policy.beliefs import NO_TOKEN, step_class
from device_runtime.drafting.policy.rule import DraftRule, Move
from device_runtime.engines.engine import DeviceEngine


@dataclass(frozen=True, slots=True)
class Drafted:
    """A token of a drafter that computes. `confidence` in (0, 1]: how clear its choice was."""

    token_id: int
    confidence: float


class Steps(Protocol):
    """A drafter that computes, behind one text; on the engine's thread."""

    def step(
        self, engine: DeviceEngine, draft: Sequence[int], take: Callable[[Drafted], bool]
    ) -> None:
        """Run one pass behind the text and a draft of it; a draft never shrinks from call to call.

        Each token is shown to `take`, which says whether it is the next of the draft. If it is
        not, the pass is over.
        """
        ...


_Step = Callable[[Sequence[int], Callable[[Drafted], bool]], None]
"""`Steps.step` on an engine."""


@dataclass(slots=True)
class Seen:
    """What was said of one place of the draft, whether it was sent or not."""

    place: int
    token_id: int
    kind: int
    """A guess's evidence or a step's class."""


@dataclass(slots=True)
class Made:
    """A draft, and all that was said at its places, to be held against what is decided."""

    draft: list[int] = field(default_factory=list)
    is_step: list[bool] = field(default_factory=list)
    """Of each token, whether a step said it."""
    survival: float = 1.0
    """The chance that all of it is right."""
    num_passes: int = 0
    guesses: list[Seen] = field(default_factory=list)
    """Of those that lie behind other tokens than the first guesses."""
    steps: list[Seen] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    """Those of all steps, behind wrong tokens too."""


class DraftBuilder:
    """Makes one draft by a rule.

    `chain` are the guesses behind the text, `look` finds those behind a draft of other tokens (on
    the engine's thread). `begun` are steps that were taken before and cost nothing more.
    """

    def __init__(
        self,
        rule: DraftRule,
        chain: Sequence[Guess],
        look: Callable[[Sequence[int]], Sequence[Guess]],
        stop_token_ids: frozenset[int],
        begun: Sequence[Drafted] = (),
    ) -> None:
        self._rule = rule
        self._chain, self._chain_begin = chain, 0
        self._look = look
        self._stop_token_ids = stop_token_ids
        self._begun = begun
        self._is_over = False
        self.made = Made()

    def wants_engine(self) -> bool:
        """Go on with what needs no engine; whether more is wanted that does."""
        return self._go_on(None)

    def finish(self, engine: DeviceEngine, steps: Steps) -> None:
        """Go on to the draft's end."""
        self._go_on(partial(steps.step, engine))

    def _go_on(self, step: _Step | None) -> bool:
        made, rule = self.made, self._rule
        while not self._is_over:
            guess, chance = self._guess(step is not None)
            if self._take_begun(guess, chance):
                continue
            num_steps = sum(made.is_step)
            spent_s = made.num_passes * rule.step_s
            move = rule.next(len(made.draft), num_steps, made.survival, spent_s, chance)
            if move is Move.STEP:
                if step is None:
                    return True
                self._pass(step, guess, chance)
            elif move is Move.GUESS and guess is not None:
                self._add(guess.token_id, chance, is_step=False)
            else:
                self._is_over = True
        return False

    def _pass(self, step: _Step, guess: Guess | None, chance: float) -> None:
        made = self.made
        made.num_passes += 1
        num_before = len(made.classes)
        num_taken = 0

        def take(drafted: Drafted) -> bool:
            nonlocal num_taken, guess, chance
            if num_taken:
                guess, chance = self._guess(True)
            num_taken += 1
            return self._take_step(drafted, guess, chance)

        step(made.draft, take)
        if len(made.classes) == num_before:
            made.classes.append(NO_TOKEN)
            self._take_guess(guess, chance)

    def _take_begun(self, guess: Guess | None, chance: float) -> bool:
        """Take a step that was taken before, if the draft is still its own."""
        place = len(self.made.draft)
        drafts = [each.token_id for each in self._begun[:place]]
        if place >= min(len(self._begun), self._rule.max_tokens) or drafts != self.made.draft:
            return False
        self._take_step(self._begun[place], guess, chance)
        return True

    def _take_step(self, drafted: Drafted, guess: Guess | None, guess_chance: float) -> bool:
        """Go on with a step's token, or the guess in its place; whether with the step's token."""
        made, rule = self.made, self._rule
        kind = step_class(drafted.confidence)
        made.classes.append(kind)
        made.steps.append(Seen(len(made.draft), drafted.token_id, kind))
        chance = rule.chances.steps[kind]
        if guess is not None and guess.token_id == drafted.token_id:
            chance = max(chance, guess_chance)
        elif guess_chance > chance:
            self._take_guess(guess, guess_chance)
            return False
        if self._may_send(chance) and sum(made.is_step) < rule.max_steps:
            self._add(drafted.token_id, chance, is_step=True)
            return not self._is_over
        self._is_over = True
        return False

    def _take_guess(self, guess: Guess | None, chance: float) -> None:
        if guess is not None and self._may_send(chance):
            self._add(guess.token_id, chance, is_step=False)
        else:
            self._is_over = True

    def _may_send(self, chance: float) -> bool:
        made, rule = self.made, self._rule
        num_tokens, spent_s = len(made.draft), made.num_passes * rule.step_s
        return (
            num_tokens < rule.max_tokens
            and rule.is_worth_sending(made.survival, chance)
            and rule.can_bear(num_tokens, spent_s, rule.row_s)
        )

    def _add(self, token_id: int, chance: float, is_step: bool) -> None:
        made = self.made
        made.draft.append(token_id)
        made.is_step.append(is_step)
        made.survival *= chance
        self._is_over |= token_id in self._stop_token_ids

    def _guess(self, may_look: bool) -> tuple[Guess | None, float]:
        """The guess at the next place, if there is one, and its chance."""
        draft = self.made.draft
        behind = draft[self._chain_begin :]
        chain = [guess.token_id for guess in self._chain[: len(behind)]]
        if chain != behind:
            if not may_look:
                return None, 0.0
            self._chain, self._chain_begin, behind = self._look(draft), len(draft), []
        if len(behind) >= len(self._chain):
            return None, 0.0
        guess = self._chain[len(behind)]
        seen = Seen(len(draft), guess.token_id, guess.evidence)
        if self._chain_begin > 0 and seen not in self.made.guesses[-1:]:
            self.made.guesses.append(seen)
        return guess, self._rule.chances.guesses[guess.evidence]
