"""The default along known texts: suffix guesses and an adapter, chosen each round by the policy.

The device's own objects decide, in a time that is made up: a round, a row and a draft step take so
long, and nothing else takes any.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from bench.drafters.drafts.at_once import AT_ONCE, NO_ROWS, SEQUENCE, result_of
from bench.drafters.drafts.steps import KnownSteps
from bench.drafters.rounds import Known, Round, one_round
from bench.drafters.texts.kept import Text
from device_runtime.drafting.building import Drafted, Steps
from device_runtime.drafting.combined import CombinedDrafter, Target
from device_runtime.drafting.policy.kind import sampling_kind
from device_runtime.drafting.policy.lessons import Lessons
from device_runtime.drafting.policy.policy import DraftPolicy
from device_runtime.drafting.protocol import NoDrafter
from device_runtime.drafting.suffix.guesses import SuffixGuesses
from device_runtime.drafting.suffix.guessing import MOST_GUESSES, SUFFIX_CHANCES
from device_runtime.engines.engine import DeviceEngine, SequenceId
from device_runtime.generation.request import SamplingParams


@dataclass(frozen=True, slots=True)
class MadeUpTimes:
    """A round without a draft, one more row in it, and one step of an adapter, in seconds.

    The defaults are about what SmolLM2-135M takes over a link of 40 ms, one processor core at each
    end.
    """

    round_s: float = 0.100
    row_s: float = 0.003
    step_s: float = 0.008


@dataclass(frozen=True, slots=True)
class Walked:
    """The rounds of one answer, and the made-up seconds that they took."""

    rounds: list[Round]
    made_up_s: float


class DefaultReplay:
    """One device, answer after answer: what it learns from one serves the next.

    A pass of its adapter gives `pass_tokens` tokens.
    """

    def __init__(
        self,
        times: MadeUpTimes,
        max_steps: int,
        pass_tokens: int = 1,
        has_guesses: bool = True,
    ) -> None:
        self._times = times
        self._max_steps = max_steps
        self._pass_tokens = pass_tokens
        self._has_guesses = has_guesses
        self._lessons = Lessons(SUFFIX_CHANCES)
        self._clock = _Clock()

    def walk(
        self, text: Text, known: Known, sampling: SamplingParams, steps: KnownSteps | None
    ) -> Walked:
        """The rounds of one answer, with what is known of an adapter's steps, if there is one."""
        began_s = self._clock.now_s
        seen = set(text.case.token_ids) | set(text.answer[:1])
        drafter = self._drafter(text, known, sampling, steps, seen)
        rounds: list[Round] = []
        start = 0
        while start < text.num_starts:
            begun_s = self._clock.now_s
            most = max(0, min(drafter.num_tokens(), text.max_tokens - start - 2))
            so_far = [*text.case.token_ids, *text.answer[: start + 1]]
            draft = result_of(drafter.propose(AT_ONCE, SEQUENCE, so_far, most))
            one = one_round(known, start, draft, most)
            self._clock.now_s += self._times.round_s + one.num_drafted * self._times.row_s
            came = text.answer[start + 1 : start + 1 + one.num_tokens]
            seen.update(came)
            drafter.decided(came, NO_ROWS)
            drafter.on_round(one.num_drafted, one.num_accepted, self._clock.now_s - begun_s)
            rounds.append(one)
            start += one.num_tokens
        return Walked(rounds, self._clock.now_s - began_s)

    def _drafter(
        self,
        text: Text,
        known: Known,
        sampling: SamplingParams,
        steps: KnownSteps | None,
        seen: Collection[int],
    ) -> CombinedDrafter:
        """The device's, behind the first token of an answer; tokens in `seen` were there before."""
        kind = sampling_kind(sampling)
        times, most_steps = self._times, 0 if steps is None else self._max_steps

        def is_penalised(token_id: int, draft: Sequence[int]) -> bool:
            return token_id in seen or token_id in draft

        drafter = CombinedDrafter(
            DraftPolicy(self._lessons, most_steps, kind, self._pass_tokens),
            self._has_guesses * MOST_GUESSES + self._max_steps,
            self._clock,
            SuffixGuesses(None) if self._has_guesses else None,
            None
            if steps is None
            else _Replayed(text, steps, self._clock, times, self._pass_tokens),
            Target(is_penalised if kind.is_penalised else None, known.stop_token_ids),
        )
        drafter.begin(text.case.token_ids)
        drafter.decided(text.answer[:1], NO_ROWS)
        return drafter


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class _Replayed(NoDrafter):
    """An adapter whose steps are known; each pass takes its time."""

    def __init__(
        self, text: Text, known: KnownSteps, clock: _Clock, times: MadeUpTimes, pass_tokens: int
    ) -> None:
        self._text = text
        self._known = known
        self._clock = clock
        self._times = times
        self._pass_tokens = pass_tokens

    def steps_behind(
        self, sequence: SequenceId, text: Sequence[int], num_undecided: int
    ) -> tuple[Steps, Sequence[Drafted]]:
        """Those behind the answer so far."""
        start = len(text) - len(self._text.case.token_ids) - 1

        def step(
            engine: DeviceEngine, draft: Sequence[int], take: Callable[[Drafted], bool]
        ) -> None:
            self._clock.now_s += self._times.step_s
            behind = [*draft]
            for _ in range(self._pass_tokens):
                said = self._known.behind(start, behind, self._text.answer[start + 1 :])
                if said is None or not take(said):
                    return
                behind.append(said.token_id)

        return _Steps(step), ()


@dataclass(frozen=True, slots=True)
class _Steps:
    step: Callable[[DeviceEngine, Sequence[int], Callable[[Drafted], bool]], None]
