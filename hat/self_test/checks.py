"""What an engine must keep, tried on streams whose results are known."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from cloud_server.engines.engine import EngineFullError, MiddleEngine, SequenceId, StepItem
from hat.self_test.streams import Stream, Streams, beginning, opened
from wire.messages import Dtype, Want
from wire.numbers import NUMPY_DTYPES

_FLOAT32_TOLERANCE = 1e-4
"""Of the largest value. Seen on CPUs: up to 1e-6."""

_TF32_TOLERANCE = 5e-3
"""vLLM 0.32's Triton attention, which float32 gets on a GPU, leaves `tl.dot` at its default there:
TensorFloat-32, which keeps 10 bits of a factor. Read from its source, not run."""

_HALF_TOLERANCE = 0.05
"""float16 and bfloat16 round every value, which made up to 0.014. Ten other rows at a context's
beginning changed what comes right behind them by 0.3 to 0.4 in a trained model of 8 layers, and
rows far behind them by 0.06 to 0.08."""

_CHUNKS = (100, 37, 64, 50, 1, 8, 16, 24)
_NUM_ROWS = sum(_CHUNKS)
_NUM_SESSIONS = 8
_SESSION_ROWS = 200
_NUM_MIXED_STEPS = 12

MIN_CONTEXT_TOKENS = _NUM_ROWS
MIN_STEP_TOKENS = 512
"""Eight sessions of which some send chunks, and step times with 256 rows, fit such a step."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check: its name, whether it passed, and the numbers."""

    name: str
    passed: bool
    numbers: str


Pairs = Generator[tuple[np.ndarray, np.ndarray]]
"""Rows `[T, H]` that came, and those that were expected."""


def tolerance_of(dtype: Dtype, *, is_vllm_on_gpu: bool = False) -> float:
    """How far numbers may differ, relative to the largest."""
    if dtype is not Dtype.FP32:
        return _HALF_TOLERANCE
    return _TF32_TOLERANCE if is_vllm_on_gpu else _FLOAT32_TOLERANCE


def run_checks(engine: MiddleEngine, streams: Streams, tolerance: float) -> Iterator[Outcome]:
    """Every check, as it finishes; nothing is left open in the engine."""
    checks: tuple[tuple[str, Callable[[MiddleEngine, Streams], Pairs]], ...] = (
        ("prompt in chunks", _chunks),
        ("rollback", _rollback),
        ("fork", _fork),
        ("mixed batches", _mixed_batches),
        ("wanted rows", _wanted_rows),
    )
    for name, check in checks:
        try:
            with closing(check(engine, streams)) as pairs:
                found = largest_error(pairs)
        # Whatever an engine raises is a finding; the checks after it say whether it lives.
        except Exception as error:
            yield Outcome(name, False, f"{type(error).__name__}: {error}")
        else:
            numbers = f"largest error {found:.1e}, allowed {tolerance:g}"
            yield Outcome(name, found <= tolerance, numbers)
    yield _capacity(engine)


def largest_error(pairs: Pairs) -> float:
    """The largest difference, relative to the largest value; not finite if any is not.

    Raises:
        ValueError: other rows came than were expected.
    """
    difference = largest = 0.0
    for came, expected in pairs:
        if came.shape != expected.shape:
            raise ValueError(f"expected rows {expected.shape}, got {came.shape}")
        if len(expected):
            apart = np.abs(came.astype(np.float32) - expected).max()
            difference = float(np.maximum(difference, apart))
            largest = max(largest, float(np.abs(expected).max()))
    return difference / largest if largest else difference


def _chunks(engine: MiddleEngine, streams: Streams) -> Pairs:
    """A prompt in chunks, the last ones as small as drafts."""
    stream = streams.stream(_NUM_ROWS, seed=1)
    with opened(engine, _NUM_ROWS) as (sequence,):
        position = 0
        for size in _CHUNKS:
            yield _sent(engine, sequence, stream, position, position + size)
            position += size


def _rollback(engine: MiddleEngine, streams: Streams) -> Pairs:
    """Rejected rows are overwritten, twice, with others; then by what was rejected at first."""
    first = streams.stream(_NUM_ROWS, seed=2)
    other = streams.stream(40, seed=3, after=beginning(first, 205))
    with opened(engine, _NUM_ROWS) as (sequence,):
        engine.step([_item(engine, sequence, first, 0, 250, Want.NONE)])
        for begin, end in ((205, 212), (208, 245), (205, 206), (206, 245)):
            yield _sent(engine, sequence, other, begin, end)
        yield _sent(engine, sequence, first, 205, 300)


def _fork(engine: MiddleEngine, streams: Streams) -> Pairs:
    """A fork goes its own way from inside a block, and so does what it was forked from."""
    first = streams.stream(_NUM_ROWS, seed=4)
    other = streams.stream(60, seed=5, after=beginning(first, 141))
    with opened(engine, _NUM_ROWS) as (parent,):
        engine.step([_item(engine, parent, first, 0, 150, Want.NONE)])
        child = engine.open(_NUM_ROWS, fork_of=parent, fork_tokens=141)
        try:
            yield _sent(engine, child, other, 141, 160)
            yield _sent(engine, parent, first, 150, 200)
            yield _sent(engine, child, other, 160, 201)
        finally:
            engine.release(child)


def _mixed_batches(engine: MiddleEngine, streams: Streams) -> Pairs:
    """Eight sessions: chunks of 20 to 59 rows and runs of up to 17 in one step, with rollbacks."""
    made = [streams.stream(_SESSION_ROWS, seed=10 + index) for index in range(_NUM_SESSIONS)]
    chance = np.random.default_rng(6)
    done = [0] * _NUM_SESSIONS
    with opened(engine, *[_SESSION_ROWS] * _NUM_SESSIONS) as sequences:
        for number in range(_NUM_MIXED_STEPS):
            batch, expected = [], []
            for index, stream in enumerate(made):
                is_chunk = (index + number) % 3 == 0
                size = int(chance.integers(20, 60) if is_chunk else chance.integers(1, 18))
                if done[index] > 20 and chance.random() < 0.4:
                    done[index] -= int(chance.integers(1, 8))
                begin, end = done[index], min(done[index] + size, _SESSION_ROWS)
                if begin < end:
                    batch.append(_item(engine, sequences[index], stream, begin, end))
                    expected.append(stream.expected[begin:end])
                    done[index] = end
            if batch:
                yield from zip(engine.step(batch), expected, strict=True)


def _wanted_rows(engine: MiddleEngine, streams: Streams) -> Pairs:
    """No row, the last row, or all rows, side by side in one step."""
    stream = streams.stream(50, seed=7)
    wanted = ((50, Want.LAST), (20, Want.NONE), (33, Want.ALL), (1, Want.LAST))
    with opened(engine, *[50] * len(wanted)) as sequences:
        batch = [
            _item(engine, sequence, stream, 0, size, want)
            for sequence, (size, want) in zip(sequences, wanted, strict=True)
        ]
        for item, came in zip(batch, engine.step(batch), strict=True):
            size = len(item.rows)
            yield came, stream.expected[size - item.num_wanted_rows : size]


def _capacity(engine: MiddleEngine) -> Outcome:
    """All of the capacity can be had again, and no more than it."""
    name = "capacity given back"
    block = engine.block_tokens
    most = min(engine.max_context_tokens, engine.capacity_tokens)
    taken = -(-most // block) * block
    sizes = [most] * (engine.capacity_tokens // taken)
    rest = engine.capacity_tokens - len(sizes) * taken
    sizes += [min(rest, most)] if rest else []
    try:
        with opened(engine, *sizes):
            is_full = _refuses_one_more(engine)
    except EngineFullError as error:
        return Outcome(name, False, f"of {engine.capacity_tokens} tokens not all: {error}")
    numbers = f"{engine.capacity_tokens} tokens"
    return Outcome(name, is_full, numbers if is_full else f"{numbers}, and more")


def _refuses_one_more(engine: MiddleEngine) -> bool:
    try:
        sequence = engine.open(1)
    except EngineFullError:
        return True
    engine.release(sequence)
    return False


def _item(
    engine: MiddleEngine,
    sequence: SequenceId,
    stream: Stream,
    begin: int,
    end: int,
    want: Want = Want.ALL,
) -> StepItem:
    rows = stream.rows[begin:end].astype(NUMPY_DTYPES[engine.dtype])
    return StepItem(sequence, begin, rows, want)


def _sent(
    engine: MiddleEngine, sequence: SequenceId, stream: Stream, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """What comes of some of a stream's rows in a step of their own, and what was expected."""
    [came] = engine.step([_item(engine, sequence, stream, begin, end)])
    return came, stream.expected[begin:end]
