"""A step of the core on an engine: commands in order, rows in, rows out, refusals alone."""

import itertools

import numpy as np
import pytest

from cloud_server.core.actions import (
    DropCopy,
    OpenSequence,
    Refusal,
    ReleaseSequence,
    RestoreSequence,
    SaveSequence,
    SequenceHandle,
    Step,
    StepWork,
)
from cloud_server.daemon.step_runner import StepRunner
from tests.support.fake_middle_engine import POISON, FakeMiddleEngine, deep_rows
from wire.errors import FaultCode
from wire.limits import ITEM_BYTES
from wire.messages import Dtype, Payload, Want
from wire.numbers import NUMPY_DTYPES, unpack_rows

A, B = SequenceHandle(11), SequenceHandle(12)


@pytest.fixture
def engine() -> FakeMiddleEngine:
    return FakeMiddleEngine(hidden_size=4, capacity=100)


@pytest.fixture
def runner(engine: FakeMiddleEngine) -> StepRunner:
    return StepRunner(engine, itertools.count().__next__, Dtype.FP32)


def _rows(num_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_rows, 4)).astype(np.float32)


def _work(handle: SequenceHandle, position: int, rows: np.ndarray) -> StepWork:
    # Not by pack_rows, which refuses what is not finite.
    return StepWork(handle, position, len(rows), Want.ALL, rows.tobytes())


def _deep(payload: object, num_rows: int) -> np.ndarray:
    assert not isinstance(payload, Refusal), payload
    return unpack_rows(payload, num_rows, 4, Dtype.FP32)


def test_commands_run_in_order_and_then_the_items(runner, engine):
    rows = _rows(5)
    first = runner.run(Step(1, (OpenSequence(A, 10),), (_work(A, 0, rows),)))
    np.testing.assert_array_equal(_deep(first.results[0], 5), deep_rows(rows))
    assert (first.seconds, first.failed_opens) == (1, ())
    commands = (OpenSequence(B, 10, fork_of=A, fork_tokens=3), ReleaseSequence(A))
    second = runner.run(Step(2, commands, (_work(B, 3, rows[3:]),)))
    np.testing.assert_array_equal(_deep(second.results[0], 2), deep_rows(rows)[3:])
    assert engine.num_sequences == 1


def test_a_step_without_items_needs_no_forward(runner, engine):
    engine.fails_always = True
    assert runner.run(Step(1, (OpenSequence(A, 10),), ())).results == ()
    assert engine.num_sequences == 1


def test_a_full_engine_refuses_that_sequence_and_its_item(runner):
    rows = _rows(2)
    step = Step(
        1, (OpenSequence(A, 90), OpenSequence(B, 20)), (_work(B, 0, rows), _work(A, 0, rows))
    )
    outcome = runner.run(step)
    ((handle, refusal),) = outcome.failed_opens
    assert (handle, refusal.code) == (B, FaultCode.CAPACITY)
    assert outcome.results[0] == refusal
    np.testing.assert_array_equal(_deep(outcome.results[1], 2), deep_rows(rows))


def test_a_fork_of_a_sequence_that_could_not_open_is_refused_alike(runner):
    commands = (OpenSequence(A, 101), OpenSequence(B, 20, fork_of=A, fork_tokens=1))
    outcome = runner.run(Step(1, commands, ()))
    assert [handle for handle, _ in outcome.failed_opens] == [A, B]
    assert {refusal.code for _, refusal in outcome.failed_opens} == {FaultCode.CAPACITY}
    (late,) = runner.run(Step(2, (OpenSequence(B, 20, fork_of=A, fork_tokens=1),), ())).failed_opens
    assert late[1].code is FaultCode.UNKNOWN_SESSION


def test_rows_of_a_sequence_that_an_earlier_step_could_not_open_are_refused_alone(runner):
    rows = _rows(2)
    runner.run(Step(1, (OpenSequence(A, 90), OpenSequence(B, 20)), ()))
    outcome = runner.run(Step(2, (), (_work(B, 0, rows), _work(A, 0, rows))))
    assert outcome.results[0].code is FaultCode.UNKNOWN_SESSION
    np.testing.assert_array_equal(_deep(outcome.results[1], 2), deep_rows(rows))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_never_reach_the_engine(runner, engine, bad):
    rows, wrong = _rows(3), _rows(3)
    wrong[1, 2] = bad
    step = Step(
        1,
        (OpenSequence(A, 10), OpenSequence(B, 10)),
        (_work(A, 0, wrong), _work(B, 0, rows)),
    )
    outcome = runner.run(step)
    assert outcome.results[0].code is FaultCode.BAD_FRAME
    np.testing.assert_array_equal(_deep(outcome.results[1], 3), deep_rows(rows))
    assert [len(cached) for cached in engine.rows.values()] == [0, 3]


def test_releasing_what_was_never_opened_is_harmless(runner, engine):
    runner.run(Step(1, (ReleaseSequence(A), OpenSequence(B, 10)), ()))
    runner.run(Step(2, (ReleaseSequence(B), ReleaseSequence(B)), ()))
    assert engine.num_sequences == 0


def test_what_the_engine_raises_is_raised(runner):
    poison = np.full((1, 4), POISON, np.float32)
    with pytest.raises(RuntimeError, match="planted"):
        runner.run(Step(1, (OpenSequence(A, 10),), (_work(A, 0, poison),)))


# Rows in another number format than the engine's


def _runner_of(engine_dtype: Dtype, wire: Dtype) -> StepRunner:
    engine = FakeMiddleEngine(hidden_size=4, capacity=100)
    engine.dtype = engine_dtype
    return StepRunner(engine, itertools.count().__next__, wire)


def _run_rows(runner: StepRunner, rows: np.ndarray, wire: Dtype) -> Payload | Refusal:
    work = StepWork(A, 0, len(rows), Want.ALL, rows.astype(NUMPY_DTYPES[wire]).tobytes())
    return runner.run(Step(1, (OpenSequence(A, 10),), (work,))).results[0]


@pytest.mark.parametrize("engine_dtype", Dtype)
@pytest.mark.parametrize("wire", Dtype)
def test_rows_are_converted_at_the_engines_edge_and_go_back_as_they_came(engine_dtype, wire):
    rows = _rows(3).astype(NUMPY_DTYPES[wire])
    payload = _run_rows(_runner_of(engine_dtype, wire), rows, wire)
    assert len(payload) == 3 * 4 * ITEM_BYTES[wire]
    inner = NUMPY_DTYPES[engine_dtype]
    expected = deep_rows(rows.astype(inner)).astype(inner).astype(NUMPY_DTYPES[wire])
    np.testing.assert_array_equal(unpack_rows(payload, 3, 4, wire), expected)


@pytest.mark.parametrize("engine_dtype", [Dtype.BF16, Dtype.FP16])
def test_wider_rows_change_nothing_for_a_narrower_engine(engine_dtype):
    rows = _rows(3)
    own = _run_rows(_runner_of(engine_dtype, engine_dtype), rows, engine_dtype)
    wide = _run_rows(_runner_of(engine_dtype, Dtype.FP32), rows, Dtype.FP32)
    np.testing.assert_array_equal(
        unpack_rows(own, 3, 4, engine_dtype).astype(np.float32), _deep(wide, 3)
    )


@pytest.mark.parametrize(
    ("engine_dtype", "wire", "rows"),
    [
        (Dtype.FP32, Dtype.FP16, np.full((3, 4), 40_000.0)),  # their sums are too large
        (Dtype.FP16, Dtype.BF16, np.full((1, 4), 70_000.0)),
    ],
    ids=["deep", "shallow"],
)
def test_numbers_beyond_a_format_are_refused_by_its_name(engine_dtype, wire, rows):
    refusal = _run_rows(_runner_of(engine_dtype, wire), rows, wire)
    assert isinstance(refusal, Refusal)
    assert refusal.code is FaultCode.BAD_FRAME
    assert "within 65504 either way in FP16 rows" in refusal.message


def _saved(runner: StepRunner, rows: np.ndarray) -> None:
    """A sequence that has left in two pieces, as A."""
    runner.run(Step(1, (OpenSequence(A, 40),), (_work(A, 0, rows),)))
    runner.run(Step(2, (SaveSequence(A, 0, 8, is_last=False),), ()))
    runner.run(Step(3, (SaveSequence(A, 8, len(rows), is_last=True),), ()))


def test_a_sequence_leaves_and_comes_back_in_pieces_of_any_size(runner, engine):
    rows = _rows(30)
    _saved(runner, rows[:20])
    assert (engine.num_sequences, len(engine.copies)) == (0, 2)
    runner.run(Step(4, (OpenSequence(A, 40), RestoreSequence(A, A, 0, 5)), ()))
    commands = (RestoreSequence(A, A, 5, 20), DropCopy(A))
    outcome = runner.run(Step(5, commands, (_work(A, 20, rows[20:]),)))
    np.testing.assert_array_equal(_deep(outcome.results[0], 10), deep_rows(rows)[20:])
    assert engine.copies == []
    # The clock ticks when the step begins, before its forward, when copies are there, and after.
    assert (outcome.copy_s, outcome.seconds) == (2, 1)


def test_another_sequence_begins_as_a_copy_that_stays(runner, engine):
    rows = _rows(30)
    _saved(runner, rows[:20])
    commands = (OpenSequence(B, 40), RestoreSequence(B, A, 0, 11))
    outcome = runner.run(Step(4, commands, (_work(B, 11, rows[11:15]),)))
    np.testing.assert_array_equal(_deep(outcome.results[0], 4), deep_rows(rows)[11:15])
    assert len(engine.copies) == 2


def test_a_copy_that_cannot_be_made_or_is_not_there_ends_its_session_alone(runner, engine):
    rows = _rows(5)
    engine.has_host_memory = False
    opened = (OpenSequence(A, 40), OpenSequence(B, 40))
    runner.run(Step(1, opened, (_work(A, 0, rows), _work(B, 0, rows))))
    saved = runner.run(Step(2, (SaveSequence(A, 0, 5, is_last=True),), (_work(B, 5, rows),)))
    ((handle, refusal),) = saved.failed_opens
    assert (handle, refusal.code) == (A, FaultCode.CAPACITY)
    _deep(saved.results[0], 5)
    assert engine.num_sequences == 1, "its room is free all the same"
    commands = (OpenSequence(A, 40), RestoreSequence(A, A, 0, 5))
    restored = runner.run(Step(3, commands, (_work(A, 5, rows), _work(B, 10, rows))))
    assert [handle for handle, _ in restored.failed_opens] == [A]
    assert isinstance(restored.results[0], Refusal)
    _deep(restored.results[1], 5)
    late = runner.run(Step(4, (), (_work(A, 5, rows), _work(B, 15, rows))))
    assert isinstance(late.results[0], Refusal), "rows that were on their way already"
    _deep(late.results[1], 5)
    assert engine.num_sequences == 1
