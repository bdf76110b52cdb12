"""How long an engine's steps take, and how much of that passes before its workers have them."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from cloud_server.engines.engine import (
    EngineFullError,
    MiddleEngine,
    PipelinedEngine,
    StepItem,
)
from hat.self_test.streams import opened
from wire.messages import Want
from wire.numbers import NUMPY_DTYPES

CONTEXT_TOKENS: Final = 128
NUM_STEPS: Final = 30
_NUM_WARM_UP_STEPS = 3


@dataclass(frozen=True, slots=True)
class Load:
    """How many sessions send how many rows each in one step."""

    num_sessions: int
    num_rows: int

    @property
    def name(self) -> str:
        """As the table and the report name it."""
        return f"{self.num_sessions}x{self.num_rows}"


VERIFY_8: Final = Load(8, 5)
LOADS: Final = (Load(1, 1), Load(1, 8), VERIFY_8, Load(32, 5), Load(1, 256))


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds: median and 90th percentile of a step, and the median of its begin.

    `begin_s` is the time until the plan is sent to the workers, None for an engine without any.
    `pipelined_s` is the median time per step with as many under way as the engine takes, None
    where that is one.
    """

    median_s: float
    p90_s: float
    begin_s: float | None = None
    pipelined_s: float | None = None


def measure(
    engine: MiddleEngine, loads: Sequence[Load] = LOADS, num_steps: int = NUM_STEPS
) -> dict[Load, StepTimes | None]:
    """Times of each load behind a context of `CONTEXT_TOKENS`; None: the engine has no room."""
    times: dict[Load, StepTimes | None] = {}
    for load in loads:
        try:
            times[load] = _measure_one(engine, load, num_steps)
        except EngineFullError:
            times[load] = None
    return times


def _measure_one(engine: MiddleEngine, load: Load, num_steps: int) -> StepTimes | None:
    if load.num_rows + CONTEXT_TOKENS > engine.max_context_tokens:
        return None
    with _batch(engine, load) as batch:
        for _ in range(_NUM_WARM_UP_STEPS):
            engine.step(batch)
        timed = [_timed(engine, batch) for _ in range(num_steps)]
    steps_s = [step_s for step_s, _ in timed]
    begins_s = [begin_s for _, begin_s in timed if begin_s is not None]
    return StepTimes(
        statistics.median(steps_s),
        float(np.quantile(steps_s, 0.9)),
        statistics.median(begins_s) if begins_s else None,
        _pipelined_s(engine, load, num_steps),
    )


def _timed(engine: MiddleEngine, batch: list[StepItem]) -> tuple[float, float | None]:
    started_s = time.perf_counter()
    if not isinstance(engine, PipelinedEngine):
        engine.step(batch)
        return time.perf_counter() - started_s, None
    pending = engine.begin(batch)
    begun_s = time.perf_counter()
    pending.wait()
    return time.perf_counter() - started_s, begun_s - started_s


def _pipelined_s(engine: MiddleEngine, load: Load, num_steps: int) -> float | None:
    """Median over rounds in which every batch is begun before the first is waited for."""
    if not isinstance(engine, PipelinedEngine) or engine.max_steps_in_flight < 2:
        return None
    num_batches = engine.max_steps_in_flight
    whole = Load(load.num_sessions * num_batches, load.num_rows)
    try:
        with _batch(engine, whole) as items:
            batches = [items[index::num_batches] for index in range(num_batches)]
            rounds_s = []
            for _ in range(max(1, num_steps // num_batches)):
                started_s = time.perf_counter()
                for pending in [engine.begin(batch) for batch in batches]:
                    pending.wait()
                rounds_s.append((time.perf_counter() - started_s) / num_batches)
    except EngineFullError:
        return None
    return statistics.median(rounds_s)


@contextmanager
def _batch(engine: MiddleEngine, load: Load) -> Iterator[list[StepItem]]:
    """Items that may be run again and again: each goes back to the context's end first."""
    generator = np.random.default_rng(0)
    dtype = NUMPY_DTYPES[engine.dtype]
    shape = (CONTEXT_TOKENS + load.num_rows, engine.hidden_size)
    with opened(engine, *[shape[0]] * load.num_sessions) as sequences:
        batch = []
        for sequence in sequences:
            rows = generator.standard_normal(shape, np.float32).astype(dtype)
            engine.step([StepItem(sequence, 0, rows[:CONTEXT_TOKENS], Want.NONE)])
            batch.append(StepItem(sequence, CONTEXT_TOKENS, rows[CONTEXT_TOKENS:], Want.ALL))
        yield batch
