"""A clock and an engine before which a core is driven: real ones, or computed."""

import time
from dataclasses import dataclass
from typing import Protocol

from cloud_server.core.actions import Step, StepOutcome
from cloud_server.core.config import CoreConfig
from cloud_server.daemon.step_runner import StepRunner
from cloud_server.engines.engine import MiddleEngine
from wire.limits import FINGERPRINT_BYTES
from wire.messages import Dtype

CONTEXT = 4096


class World(Protocol):
    """A clock, and an engine that performs steps on it."""

    @property
    def now(self) -> float:
        """Seconds."""
        ...

    def wait_until(self, due_s: float) -> None:
        """Let the time pass, or a part of it."""
        ...

    def perform(self, step: Step) -> StepOutcome:
        """Run a step."""
        ...


class LiveWorld:
    """A real engine on the real clock."""

    def __init__(self, engine: MiddleEngine, dtype: Dtype) -> None:
        self._runner = StepRunner(engine, time.perf_counter, dtype)

    @property
    def now(self) -> float:
        """See `World`."""
        return time.perf_counter()

    def wait_until(self, due_s: float) -> None:
        """See `World`."""
        time.sleep(max(0.0, min(0.001, due_s - time.perf_counter())))

    def perform(self, step: Step) -> StepOutcome:
        """See `World`."""
        return self._runner.run(step)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What a step takes: in any case, for a sequence in it, for a row, and for each pair of a row
    and a position before it."""

    fixed_s: float
    sequence_s: float
    row_s: float
    pair_s: float

    def of(self, step: Step) -> float:
        """Seconds."""
        num_pairs = sum(item.num_rows * (item.position + item.num_rows / 2) for item in step.items)
        cost_s = self.fixed_s + len(step.items) * self.sequence_s
        return cost_s + step.num_tokens * self.row_s + num_pairs * self.pair_s


class SimulatedWorld:
    """Steps take what `times` say, and no time passes but theirs and that of waits."""

    row_bytes = 2
    """Rows say nothing."""

    def __init__(self, times: StepTimes) -> None:
        self.now = 0.0
        self._times = times

    @classmethod
    def settings(cls, num_decoders: int) -> CoreConfig:
        """Of a core in such a world, with room for all, as they are by default."""
        return CoreConfig(
            fingerprint=bytes(FINGERPRINT_BYTES),
            first_layer=1,
            num_layers=1,
            hidden_size=1,
            dtype=Dtype.FP16,
            capacity_tokens=(num_decoders + 2) * CONTEXT,
            max_context_tokens=CONTEXT,
            identity_share=1.0,
        )

    def wait_until(self, due_s: float) -> None:
        """See `World`."""
        self.now = max(self.now, due_s)

    def perform(self, step: Step) -> StepOutcome:
        """See `World`."""
        seconds = self._times.of(step) if step.items else 0.0
        self.now += seconds
        rows = tuple(bytes(item.num_answer_rows * self.row_bytes) for item in step.items)
        return StepOutcome(rows, seconds)
