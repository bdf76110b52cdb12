"""Drafters asked outside a runtime: calls on the engine run at once."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from device_runtime.drafting.combined import Guesser
from device_runtime.drafting.protocol import Drafter, NoDrafter
from device_runtime.engines.engine import DeviceEngine, Rows, SequenceId, Workers
from device_runtime.session.actions import ComputeAndSend
from wire.messages import Want

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Workers that are the caller."""

    engine: DeviceEngine

    async def run(self, call: Callable[[DeviceEngine], T]) -> T:
        return call(self.engine)

    def run_later(self, call: Callable[[DeviceEngine], None]) -> None:
        call(self.engine)

    def close(self) -> None:
        pass


class GuessesAlone(NoDrafter):
    """A drafter that proposes whatever is guessed."""

    def __init__(self, guesser: Guesser) -> None:
        self._guesser = guesser

    def begin(self, prompt_ids: Sequence[int]) -> None:
        self._guesser.begin(prompt_ids)

    def decided(self, token_ids: Sequence[int], deep: Rows) -> None:
        self._guesser.decided(token_ids)

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        guesses = self._guesser.behind(text[len(text) - num_undecided :])
        return tuple(guess.token_id for guess in guesses[:num_tokens])


NO_ENGINE = AtOnce(cast(DeviceEngine, None))
NO_SEQUENCE = SequenceId(0)


def result_of(call: Coroutine[Any, Any, T]) -> T:
    """The result of what waits for nothing."""
    try:
        call.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise AssertionError("expected a call that does not wait")


def proposed(
    drafter: Drafter,
    text: Sequence[int],
    num_tokens: int,
    workers: AtOnce = NO_ENGINE,
    sequence: SequenceId = NO_SEQUENCE,
    num_undecided: int = 0,
) -> tuple[int, ...]:
    """What a drafter proposes."""
    return result_of(drafter.propose(workers, sequence, text, num_tokens, num_undecided))


def round_of(text: Sequence[int], draft: Sequence[int], epoch: int = 2) -> ComputeAndSend:
    """The frame of a verification: the text's last token and the draft behind it."""
    return ComputeAndSend(epoch, len(text) - 1, (text[-1], *draft), Want.ALL, is_verify=True)


def work_it_off(
    drafter: Drafter, sent: ComputeAndSend, workers: AtOnce, sequence: SequenceId
) -> None:
    """Let a drafter work until nothing is left to do."""
    while result_of(drafter.work(workers, sequence, sent)):
        pass
