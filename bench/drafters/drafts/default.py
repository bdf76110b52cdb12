"""The default along known texts: suffix guesses and an adapter, chosen each round by the policy.

The device's own objects decide, in a time that is made up: a round, a row and a draft step take so
long, and nothing else takes any.
"""

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from bench.drafters.rounds import Draft, Known, Round, one_round
from bench.drafters.texts.kept import Text
from device_runtime.drafting.combined import CombinedDrafter
from device_runtime.drafting.policy.policy import DraftPolicy, Lessons
from device_runtime.drafting.protocol import NoDrafter
from device_runtime.drafting.suffix.guesses import SuffixGuesses
from device_runtime.drafting.suffix.guessing import MOST_GUESSES, SUFFIX_CHANCES
from device_runtime.engines.engine import Rows, SequenceId, Workers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MadeUpTimes:
    """A round without a draft, one more row in it, and one step of an adapter, in seconds.

    The defaults are about what SmolLM2-135M takes over a link of 40 ms, one processor core at each
    end.
    """

    round_s: float = 0.100
    row_s: float = 0.003
    step_s: float = 0.008


class DefaultReplay:
    """One device, answer after answer: what it learns from one serves the next."""

    def __init__(self, times: MadeUpTimes, max_steps: int) -> None:
        self._times = times
        self._max_steps = max_steps
        self._lessons = Lessons(SUFFIX_CHANCES)
        self._clock = _Clock()

    def rounds(self, text: Text, known: Known, steps: Sequence[Draft] | None) -> list[Round]:
        """The rounds of one answer; `steps` are the adapter's drafts from every start, if any."""
        stepper = None if steps is None else _KnownSteps(text, steps, self._clock, self._times)
        drafter = CombinedDrafter(
            DraftPolicy(self._lessons, self._max_steps if stepper else 0),
            MOST_GUESSES + self._max_steps,
            self._clock,
            SuffixGuesses(None),
            stepper,
        )
        drafter.begin(text.case.token_ids)
        drafter.decided(text.answer[:1], _NO_ROWS)
        rounds, start = [], 0
        while start < text.num_starts:
            begun_s = self._clock.now_s
            most = max(0, min(drafter.num_tokens(), text.max_tokens - start - 2))
            so_far = [*text.case.token_ids, *text.answer[: start + 1]]
            draft = _result(drafter.propose(_NO_WORKERS, _SEQUENCE, so_far, most))
            one = one_round(known, start, draft, most)
            self._clock.now_s += self._times.round_s + one.num_drafted * self._times.row_s
            drafter.decided(text.answer[start + 1 : start + 1 + one.num_tokens], _NO_ROWS)
            drafter.on_round(one.num_drafted, one.num_accepted, self._clock.now_s - begun_s)
            rounds.append(one)
            start += one.num_tokens
        return rounds


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class _KnownSteps(NoDrafter):
    """An adapter whose drafts are known; each step takes its time.

    Behind a guess that is wrong its tokens are some others, since none of them can count.
    """

    num_begun = 0
    """It never drafts ahead."""

    def __init__(
        self, text: Text, drafts: Sequence[Draft], clock: _Clock, times: MadeUpTimes
    ) -> None:
        self._answer = text.answer
        self._num_prompt_tokens = len(text.case.token_ids)
        self._drafts = drafts
        self._clock = clock
        self._times = times
        self._begun: Draft = ()

    def go_on_behind(self, draft: Sequence[int]) -> None:
        """Have the next proposal begin with a draft that was made elsewhere."""
        self._begun = tuple(draft)

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        begun, self._begun = self._begun, ()
        start = len(text) - self._num_prompt_tokens - 1
        end = start + len(begun)
        is_right = begun == tuple(self._answer[start + 1 : end + 1])
        place = end if is_right and end < len(self._drafts) else start
        wanted = num_tokens - len(begun)
        steps = self._drafts[place][:wanted]
        self._clock.now_s += self._times.step_s * min(wanted, len(steps) + 1)
        return (*begun, *steps)


_NO_ROWS = cast(Rows, None)
_NO_WORKERS = cast(Workers, None)
_SEQUENCE = SequenceId(0)
"""What an engine would be asked with; nobody asks one here."""


def _result(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("expected a drafter that waits for nothing")
