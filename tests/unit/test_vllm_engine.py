"""The engine on vLLM with workers of numpy: what it plans, what it returns, and how it is lost."""

from dataclasses import replace

import numpy as np
import pytest

from cloud_server.engines.engine import (
    EngineFullError,
    EngineLostError,
    MiddleEngine,
    PipelinedEngine,
    StepItem,
    steps_in_flight,
)
from cloud_server.engines.vllm.engine import EngineShape, VllmMiddleEngine
from cloud_server.engines.vllm.paged_cache import PagedCache, Placement
from cloud_server.engines.vllm.plan import make_plan, rows_as_numbers, split_rows
from tests.support.fake_pipeline import NumpyWorkers, small_numbers
from wire.messages import Dtype, Want
from wire.numbers import NUMPY_DTYPES

HIDDEN, BLOCKS, BLOCK_TOKENS, CONTEXT, MOST_ROWS = 4, 12, 4, 40, 24


@pytest.fixture
def workers() -> NumpyWorkers:
    return NumpyWorkers(BLOCKS, BLOCK_TOKENS, HIDDEN)


def engine_on(workers: NumpyWorkers, dtype: Dtype = Dtype.FP32) -> VllmMiddleEngine:
    cache = PagedCache(BLOCKS, BLOCK_TOKENS, CONTEXT)
    return VllmMiddleEngine(workers, EngineShape(HIDDEN, dtype, CONTEXT, MOST_ROWS), cache)


@pytest.fixture
def engine(workers: NumpyWorkers) -> VllmMiddleEngine:
    return engine_on(workers)


def rows(num_rows: int, seed: int = 0, dtype: Dtype = Dtype.FP32):
    return small_numbers(num_rows, HIDDEN, seed, dtype)


def sums(shallow):
    return np.cumsum(shallow.astype(np.float32), axis=0).astype(shallow.dtype)


def run(engine, sequence, position, shallow, want=Want.ALL):
    (deep,) = engine.step([StepItem(sequence, position, shallow, want)])
    return deep


def items(*shares: tuple[int, int, Want], dtype: Dtype = Dtype.FP32) -> list[StepItem]:
    """One item per sequence: position, rows, want."""
    return [
        StepItem(number, position, rows(num_rows, number, dtype), want)
        for number, (position, num_rows, want) in enumerate(shares)
    ]


# The plan


def test_a_plan_has_everything_a_worker_needs():
    batch = items((0, 3, Want.NONE), (5, 2, Want.LAST), (9, 4, Want.ALL))
    placement = Placement(tables=((3,), (1, 2), (4, 5, 6, 7)), copies=((8, 2), (9, 4)))
    plan = make_plan(batch, placement, BLOCK_TOKENS)
    assert plan.row_starts.tolist() == [0, 3, 5, 9]
    assert plan.lengths.tolist() == [3, 7, 13]
    assert plan.positions.tolist() == [0, 1, 2, 5, 6, 9, 10, 11, 12]
    assert plan.places.tolist() == [12, 13, 14, 9, 10, 25, 26, 27, 28]
    assert plan.tables.tolist() == [[3, 0, 0, 0], [1, 2, 0, 0], [4, 5, 6, 7]]
    assert plan.wanted.tolist() == [4, 5, 6, 7, 8]
    assert plan.copies.tolist() == [[8, 2], [9, 4]]
    assert (plan.most_rows, plan.most_tokens) == (4, 13)
    of_sequences = (plan.row_starts, plan.lengths, plan.tables)
    of_rows = (plan.positions, plan.places, plan.wanted, plan.copies)
    assert {numbers.dtype for numbers in of_sequences} == {np.dtype(np.int32)}
    assert {numbers.dtype for numbers in of_rows} == {np.dtype(np.int64)}


def test_a_plan_without_copies_has_none_of_two_columns():
    plan = make_plan(items((0, 1, Want.NONE)), Placement(((1,),), ()), BLOCK_TOKENS)
    assert (plan.copies.shape, plan.copies.dtype) == ((0, 2), np.int64)
    assert (plan.wanted.shape, plan.wanted.dtype) == ((0,), np.int64)


@pytest.mark.parametrize("dtype", Dtype)
def test_rows_travel_as_numbers_that_torch_has_too(dtype):
    batch = items((0, 3, Want.ALL), dtype=dtype)
    (numbers,) = rows_as_numbers(batch, dtype)
    assert numbers.dtype == (np.uint16 if dtype is Dtype.BF16 else NUMPY_DTYPES[dtype])
    (back,) = split_rows(numbers, batch, dtype)
    assert back.dtype == NUMPY_DTYPES[dtype]
    np.testing.assert_array_equal(back, batch[0].rows)


@pytest.mark.parametrize(
    "wants",
    [
        (Want.NONE,),
        (Want.NONE, Want.NONE),
        (Want.ALL, Want.NONE, Want.LAST),
        (Want.NONE, Want.LAST, Want.ALL),
        (Want.LAST, Want.LAST),
    ],
)
def test_wanted_rows_come_back_to_their_items(wants):
    batch = items(*((0, 3, want) for want in wants))
    plan = make_plan(batch, Placement(((1,),) * len(wants), ()), BLOCK_TOKENS)
    deep = np.concatenate(rows_as_numbers(batch, Dtype.FP32))[plan.wanted]
    parts = split_rows(deep, batch, Dtype.FP32)
    for item, part in zip(batch, parts, strict=True):
        num_wanted = {Want.NONE: 0, Want.LAST: 1, Want.ALL: 3}[item.want]
        np.testing.assert_array_equal(part, item.rows[3 - num_wanted :])
        assert not np.shares_memory(part, deep)


def test_a_plan_without_taps_asks_for_none():
    placement = Placement(((1,), (2,)), ())
    for wants in ((Want.ALL, Want.ALL), (Want.LAST, Want.NONE)):
        plan = make_plan(items(*((0, 3, want) for want in wants)), placement, BLOCK_TOKENS)
        assert (len(plan.tap_depths), len(plan.tap_rows)) == (0, 0)
    untold = [replace(item, taps=(1, 2)) for item in items((0, 3, Want.NONE), (0, 3, Want.NONE))]
    plan = make_plan(untold, placement, BLOCK_TOKENS)
    assert (len(plan.tap_depths), len(plan.tap_rows), len(plan.wanted)) == (0, 0, 0)


@pytest.mark.parametrize("dtype", Dtype)
def test_taps_stand_behind_each_row_that_asked_for_them(dtype, workers):
    engine = engine_on(workers, dtype)
    asked = [
        (3, Want.ALL, (3, 1)),
        (2, Want.ALL, ()),
        (4, Want.LAST, (5,)),
        (1, Want.NONE, (6,)),
        (2, Want.ALL, (5, 3)),
    ]
    batch = [
        StepItem(engine.open(8), 0, rows(num_rows, seed, dtype), want, taps)
        for seed, (num_rows, want, taps) in enumerate(asked)
    ]
    for item, answer in zip(batch, engine.step(batch), strict=True):
        own = sums(item.rows)[len(item.rows) - item.num_wanted_rows :].astype(np.float32)
        expected = [row + depth for row in own for depth in (0, *item.taps)]
        assert answer.dtype == NUMPY_DTYPES[dtype]
        np.testing.assert_array_equal(answer, np.array(expected).reshape(-1, HIDDEN))
    (plan,) = workers.plans
    assert plan.tap_depths.tolist() == [1, 3, 5], "a depth that no row wants is not asked for"
    assert plan.tap_rows.tolist() == [0, 1, 2, 8, 10, 11]
    assert plan.tap_depths.dtype == plan.tap_rows.dtype == np.int64


@pytest.mark.parametrize("num_rows", [2, 4])
def test_another_number_of_rows_than_was_wanted_is_an_error(num_rows):
    with pytest.raises(ValueError, match=f"expected 3 rows, got {num_rows}"):
        split_rows(rows(num_rows), items((0, 3, Want.ALL)), Dtype.FP32)


# The engine


@pytest.mark.parametrize("dtype", Dtype)
def test_deep_rows_depend_on_every_row_of_their_sequence_alone(workers, dtype):
    engine = engine_on(workers, dtype)
    texts = {engine.open(12): rows(12, seed, dtype) for seed in range(3)}
    for position in range(0, 12, 3):
        batch = [
            StepItem(name, position, text[position : position + 3], Want.ALL)
            for name, text in texts.items()
        ]
        for deep, text in zip(engine.step(batch), texts.values(), strict=True):
            assert deep.dtype == NUMPY_DTYPES[dtype]
            np.testing.assert_array_equal(deep, sums(text)[position : position + 3])


def test_forks_cuts_and_rewrites_read_the_right_rows(engine):
    text = rows(10)
    whole = engine.open(16)
    run(engine, whole, 0, text, Want.NONE)
    fork = engine.open(16, whole, 6)
    other = np.concatenate([text[:6], rows(5, seed=1)])
    np.testing.assert_array_equal(run(engine, fork, 6, other[6:]), sums(other)[6:])
    # The source goes on, over a part of what the fork still reads.
    cut = np.concatenate([text[:5], rows(4, seed=2)])
    np.testing.assert_array_equal(run(engine, whole, 5, cut[5:]), sums(cut)[5:])
    more = np.concatenate([other, rows(2, seed=3)])
    np.testing.assert_array_equal(run(engine, fork, 11, more[11:]), sums(more)[11:])
    engine.release(whole)
    late = np.concatenate([more, rows(1, seed=4)])
    np.testing.assert_array_equal(run(engine, fork, 13, late[13:], Want.LAST), sums(late)[-1:])


def test_what_was_saved_comes_back_into_other_blocks(engine, workers):
    text = rows(10)
    source = engine.open(16)
    run(engine, source, 0, text, Want.NONE)
    fork = engine.open(16, source, 6)
    copies = [engine.save(source, 0, 8), engine.save(source, 8, 10)]
    engine.release(source)
    run(engine, engine.open(12), 0, rows(12, seed=1))
    back = engine.open(16)
    for copy, begin, end in ((copies[0], 0, 4), (copies[0], 4, 8), (copies[1], 8, 10)):
        engine.restore(back, copy, begin, end).wait()
    whole = np.concatenate([text, rows(3, seed=2)])
    np.testing.assert_array_equal(run(engine, back, 10, whole[10:]), sums(whole)[10:])
    other = np.concatenate([text[:6], rows(3, seed=3)])
    np.testing.assert_array_equal(run(engine, fork, 6, other[6:]), sums(other)[6:])
    for copy in copies:
        engine.drop(copy).wait()
    assert workers.kept == {}


def test_workers_of_which_one_could_not_copy_are_a_lost_engine(engine, workers):
    sequence = engine.open(8)
    run(engine, sequence, 0, rows(5))
    copy = engine.save(sequence, 0, 5)
    workers.result_error = MemoryError("planted")
    with pytest.raises(EngineLostError, match="MemoryError"):
        copy.wait()
    for begin in (1, 3):
        with pytest.raises(ValueError, match="blocks of 4"):
            engine.save(sequence, begin, 5)


def test_a_step_may_have_so_many_rows_and_no_more(engine, workers):
    one, two = engine.open(20), engine.open(20)
    batch = [StepItem(one, 0, rows(12), Want.ALL), StepItem(two, 0, rows(12), Want.ALL)]
    assert [len(deep) for deep in engine.step(batch)] == [12, 12]
    with pytest.raises(ValueError, match="expected a step of 1 to 24 rows, got 25"):
        engine.step([StepItem(one, 0, rows(12), Want.ALL), StepItem(two, 0, rows(13), Want.ALL)])
    with pytest.raises(ValueError, match="got 0"):
        engine.begin([])
    assert engine.step([]) == []
    # What was refused has changed nothing, and nothing of it was sent.
    assert len(workers.plans) == 1
    run(engine, one, 12, rows(1))


def test_it_offers_what_the_cache_has_in_whole_blocks(engine):
    assert isinstance(engine, PipelinedEngine)
    assert engine.capacity_tokens == BLOCKS * BLOCK_TOKENS
    assert engine.block_tokens == BLOCK_TOKENS
    assert engine.max_context_tokens == CONTEXT
    engine.open(CONTEXT)
    with pytest.raises(EngineFullError, match="9 positions asked for, 8 of 48 free"):
        engine.open(9)
    engine.open(8)


def test_it_takes_as_many_steps_at_once_as_there_are_stages():
    workers = NumpyWorkers(BLOCKS, BLOCK_TOKENS, HIDDEN, num_stages=3)
    engine: MiddleEngine = engine_on(workers)
    assert steps_in_flight(engine) == 3


def test_steps_under_way_keep_their_own_items(engine):
    texts = [rows(3, seed) for seed in range(3)]
    names = [engine.open(8) for _ in texts]
    pending = [
        engine.begin([StepItem(name, 0, text, Want.ALL)])
        for name, text in zip(names, texts, strict=True)
    ]
    for step, text in zip(pending, texts, strict=True):
        np.testing.assert_array_equal(step.wait()[0], sums(text))


# Its end


def test_workers_that_take_nothing_are_lost(engine, workers):
    sequence = engine.open(8)
    workers.send_error = OSError("a closed pipe with a secret path")
    with pytest.raises(EngineLostError, match=r"gone: OSError$") as caught:
        run(engine, sequence, 0, rows(2))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_step_of_dead_workers_is_a_lost_engine(engine, workers):
    sequence = engine.open(8)
    step = engine.begin([StepItem(sequence, 0, rows(2), Want.ALL)])
    workers.result_error, workers.are_lost = RuntimeError("dead"), True
    with pytest.raises(EngineLostError, match=r"gone: RuntimeError$"):
        step.wait()


def test_a_step_that_fails_in_workers_that_live_is_that_step_s_failure(engine, workers):
    sequence, other = engine.open(8), engine.open(8)
    workers.result_error = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        run(engine, sequence, 0, rows(2))
    workers.result_error = None
    np.testing.assert_array_equal(run(engine, other, 0, rows(2)), sums(rows(2)))
