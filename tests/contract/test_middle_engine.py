"""What every middle engine must keep, whatever it is made of."""

import contextlib

import numpy as np
import pytest

from cloud_server.engines.engine import EngineFullError, PipelinedEngine, StepItem
from tests.support.middle_engines import (
    CAPACITY_TOKENS,
    ENGINES,
    as_rows,
    assert_near,
    family_of,
    random_rows,
    run_one,
    shortened_engine,
)
from tests.support.middle_models import FAMILIES, MAX_CONTEXT, NUM_MIDDLE_LAYERS
from wire.messages import Dtype, Want
from wire.numbers import NUMPY_DTYPES


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_rows_equal_those_of_transformers(engine_name, models, family):
    middle = models(family)
    engine = ENGINES[engine_name](middle, Dtype.FP32)
    shallow, deep = middle.rows(40, seed=1)
    out = run_one(engine, engine.open(40), 0, as_rows(shallow, Dtype.FP32))
    assert_near(out, deep.numpy())


@pytest.mark.parametrize("dtype", [Dtype.BF16, Dtype.FP16])
def test_half_precision_rows_are_near_those_of_transformers(engine_name, models, dtype):
    middle = models("llama")
    engine = ENGINES[engine_name](middle, dtype)
    shallow, deep = middle.rows(40, seed=1)
    out = run_one(engine, engine.open(40), 0, as_rows(shallow, dtype))
    error = np.abs(out.astype(np.float32) - deep.numpy()).max()
    assert out.dtype == NUMPY_DTYPES[dtype]
    assert error < 0.03 * np.abs(deep.numpy()).max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunks", [(1,) * 8 + (52,), (7, 23, 1, 29), (59, 1)])
def test_a_prompt_in_chunks_equals_the_prompt_whole(engine_name, models, family, chunks):
    middle = models(family)
    engine = ENGINES[engine_name](middle, Dtype.FP32)
    shallow, deep = middle.rows(60, seed=2)
    rows = as_rows(shallow, Dtype.FP32)
    sequence = engine.open(60)
    position = 0
    for size in chunks:
        out = run_one(engine, sequence, position, rows[position : position + size])
        expected = deep[position : position + size].numpy()
        assert_near(out, expected)
        position += size


def test_a_long_sequence_keeps_its_cache_as_it_grows(engine, engine_name, models):
    shallow, deep = models(family_of(engine_name)).rows(MAX_CONTEXT, seed=3)
    rows = as_rows(shallow, Dtype.FP32)
    sequence = engine.open(MAX_CONTEXT)
    for position in range(0, MAX_CONTEXT, 240):
        out = run_one(engine, sequence, position, rows[position : position + 240])
    assert_near(out, deep[-240:].numpy())


@pytest.mark.parametrize("want", [Want.ALL, Want.LAST, Want.NONE])
def test_taps_are_the_rows_after_so_many_layers_and_change_nothing_else(
    engine, engine_name, models, want
):
    if not engine.takes_taps:
        pytest.skip(f"{engine_name} gives no taps")
    shallow, deep = models(family_of(engine_name)).rows(12, seed=3)
    rows = as_rows(shallow, Dtype.FP32)
    plain, tapped, other = (engine.open(20) for _ in range(3))
    taps = (1, NUM_MIDDLE_LAYERS - 1)
    expected = [run_one(engine, plain, 0, rows)]
    expected += [_rows_after(models(family_of(engine_name)), rows, tap) for tap in taps]
    answers = engine.step(
        [
            StepItem(other, 0, rows[:5], Want.ALL),
            StepItem(tapped, 0, rows, want, taps),
        ]
    )
    assert_near(answers[0], deep[:5].numpy())
    num_wanted = want.num_rows(12)
    assert answers[1].shape == (num_wanted * 3, engine.hidden_size)
    for place, of_depth in enumerate(expected):
        assert_near(answers[1][place::3], of_depth[12 - num_wanted :])


def _rows_after(middle, rows, num_layers):
    """What an engine of the first layers alone makes of rows."""
    shorter = shortened_engine(middle, num_layers)
    return run_one(shorter, shorter.open(20), 0, rows)


@pytest.mark.parametrize("num_kept", [0, 5, 19, 20])
def test_truncating_and_going_on_equals_never_having_drafted(engine, num_kept):
    rows = random_rows(engine, 30, seed=4)
    drafted, plain = engine.open(64), engine.open(64)
    run_one(engine, drafted, 0, rows[:20], Want.NONE)
    run_one(engine, drafted, 20, random_rows(engine, 9, seed=5))
    if num_kept:
        run_one(engine, plain, 0, rows[:num_kept], Want.NONE)
    out = run_one(engine, drafted, num_kept, rows[num_kept:])
    assert_near(out, run_one(engine, plain, num_kept, rows[num_kept:]))


def test_repeating_an_item_changes_nothing(engine):
    rows = random_rows(engine, 12, seed=6)
    sequence = engine.open(32)
    run_one(engine, sequence, 0, rows[:8], Want.NONE)
    first = run_one(engine, sequence, 8, rows[8:])
    np.testing.assert_array_equal(run_one(engine, sequence, 8, rows[8:]), first)


def test_a_batch_equals_its_items_one_by_one(engine):
    sizes = [1, 5, 33, 2, 8]
    past = [40, 17, 0, 300, 1]
    wants = [Want.LAST, Want.ALL, Want.ALL, Want.NONE, Want.ALL]
    alone, together = [], []
    for index, (num_past, size, want) in enumerate(zip(past, sizes, wants, strict=True)):
        before = random_rows(engine, num_past, seed=index)
        rows = random_rows(engine, size, seed=100 + index)
        for results in (alone, together):
            sequence = engine.open(384)
            if num_past:
                run_one(engine, sequence, 0, before, Want.NONE)
            results.append(StepItem(sequence, num_past, rows, want))
    batched = engine.step(together)
    for item, out in zip(alone, batched, strict=True):
        assert_near(out, engine.step([item])[0])


def test_rows_may_follow_those_of_steps_under_way(engine):
    if not isinstance(engine, PipelinedEngine) or engine.max_steps_in_flight < 2:
        pytest.skip("one step at a time")
    rows, others = random_rows(engine, 90, seed=3), random_rows(engine, 12, seed=4)
    expected = run_one(engine, engine.open(128), 0, rows)
    sequence, other = engine.open(128), engine.open(128)
    came = []
    # Within a block and across its end; the second pair rewrites a part of the first.
    for first, second in (((0, 20), (20, 50)), ((45, 64), (64, 90))):
        steps = [
            engine.begin([StepItem(sequence, begin, rows[begin:end], Want.ALL)])
            for begin, end in (first, second)
        ]
        came += [deep for step in steps for deep in step.wait()]
    run_one(engine, other, 0, others)
    for deep, begin in zip(came, (0, 20, 45, 64), strict=True):
        assert_near(deep, expected[begin : begin + len(deep)])


def test_sequences_do_not_touch_each_other(engine):
    rows = random_rows(engine, 40, seed=7)
    watched, other, alone = engine.open(64), engine.open(64), engine.open(64)
    run_one(engine, watched, 0, rows[:20], Want.NONE)
    run_one(engine, alone, 0, rows[:20], Want.NONE)
    run_one(engine, other, 0, random_rows(engine, 50, seed=8))
    run_one(engine, other, 3, random_rows(engine, 9, seed=9))
    engine.release(other)
    run_one(engine, engine.open(64), 0, random_rows(engine, 64, seed=10))
    out = run_one(engine, watched, 20, rows[20:])
    np.testing.assert_array_equal(out, run_one(engine, alone, 20, rows[20:]))


def test_rows_that_are_not_finite_stay_in_their_sequence(engine):
    rows = random_rows(engine, 6, seed=11)
    healthy, poisoned = engine.open(16), engine.open(16)
    expected = run_one(engine, healthy, 0, rows)
    bad = np.full_like(rows, np.nan)
    out = engine.step([StepItem(poisoned, 0, bad, Want.ALL), StepItem(healthy, 0, rows, Want.ALL)])[
        1
    ]
    assert_near(out, expected)
    assert_near(run_one(engine, poisoned, 0, rows), expected)


@pytest.mark.parametrize("num_shared", [0, 1, 13, 20])
def test_a_fork_goes_on_from_the_shared_prefix_and_then_its_own_way(engine, num_shared):
    rows, others = random_rows(engine, 30, seed=12), random_rows(engine, 10, seed=13)
    parent, reference = engine.open(300), engine.open(64)
    run_one(engine, parent, 0, rows[:20], Want.NONE)
    child = engine.open(64, fork_of=parent, fork_tokens=num_shared)
    prefix = np.concatenate([rows[:num_shared], others])
    expected = run_one(engine, reference, 0, prefix)[num_shared:]
    assert_near(run_one(engine, child, num_shared, others), expected)
    whole = run_one(engine, engine.open(64), 0, rows)[20:]
    assert_near(run_one(engine, parent, 20, rows[20:]), whole)


def test_a_fork_outlives_its_parent(engine):
    rows = random_rows(engine, 30, seed=14)
    parent = engine.open(64)
    run_one(engine, parent, 0, rows[:20], Want.NONE)
    child = engine.open(64, fork_of=parent, fork_tokens=20)
    engine.release(parent)
    expected = run_one(engine, engine.open(64), 0, rows)[20:]
    assert_near(run_one(engine, child, 20, rows[20:]), expected)


def test_want_names_the_rows_that_come_back(engine):
    rows = random_rows(engine, 9, seed=15)
    sequence = engine.open(16)
    whole = run_one(engine, sequence, 0, rows, Want.ALL)
    assert whole.shape == (9, engine.hidden_size)
    assert run_one(engine, sequence, 0, rows, Want.NONE).shape == (0, engine.hidden_size)
    np.testing.assert_array_equal(run_one(engine, sequence, 0, rows, Want.LAST), whole[-1:])


def test_later_steps_do_not_change_returned_rows(engine):
    sequence = engine.open(16)
    first = run_one(engine, sequence, 0, random_rows(engine, 4, seed=16))
    kept = first.copy()
    run_one(engine, sequence, 0, random_rows(engine, 4, seed=17))
    np.testing.assert_array_equal(first, kept)


def test_an_empty_batch_gives_no_rows(engine):
    assert engine.step([]) == []


def test_wrong_items_are_refused_and_change_nothing(engine):
    rows = random_rows(engine, 4, seed=18)
    good, bad = engine.open(8), engine.open(8)
    run_one(engine, bad, 0, rows, Want.NONE)
    wrong = {
        "beyond the cached length": StepItem(bad, 5, rows[:1], Want.ALL),
        "before the start": StepItem(bad, -1, rows, Want.ALL),
        "beyond what was opened": StepItem(bad, 4, random_rows(engine, 5, seed=19), Want.ALL),
        "no rows": StepItem(bad, 4, rows[:0], Want.ALL),
        "another width": StepItem(bad, 4, rows[:, :-1], Want.ALL),
        "not a matrix": StepItem(bad, 4, rows[0], Want.ALL),
        "another number format": StepItem(bad, 4, rows.astype(np.float16), Want.ALL),
        "an unknown sequence": StepItem(max(good, bad) + 1, 0, rows, Want.ALL),
    }
    accepted = []
    for why, item in wrong.items():
        with contextlib.suppress(ValueError):
            engine.step([StepItem(good, 0, rows, Want.ALL), item])
            accepted.append(why)
    assert accepted == []
    with pytest.raises(ValueError, match="twice"):
        engine.step([StepItem(good, 0, rows, Want.ALL)] * 2)
    with pytest.raises(ValueError, match="holds 0"):
        engine.step([StepItem(good, 1, rows, Want.ALL)])
    run_one(engine, bad, 4, rows)


def test_wrong_lengths_are_refused_when_opening(engine):
    parent = engine.open(16)
    run_one(engine, parent, 0, random_rows(engine, 8, seed=20), Want.NONE)
    for arguments in ((0,), (MAX_CONTEXT + 1,), (16, parent, 9), (4, parent, 5), (16, None, 1)):
        with pytest.raises(ValueError, match=r"\d"):
            engine.open(*arguments)
    with pytest.raises(ValueError, match="sequence"):
        engine.open(16, fork_of=parent + 1, fork_tokens=0)


def test_capacity_is_taken_when_opening_and_given_back_by_release(engine):
    taken = -(-MAX_CONTEXT // engine.block_tokens) * engine.block_tokens
    most = CAPACITY_TOKENS // taken
    full = [engine.open(MAX_CONTEXT) for _ in range(most)]
    rest = CAPACITY_TOKENS - most * taken
    with pytest.raises(EngineFullError):
        engine.open(rest + 1)
    with pytest.raises(EngineFullError):
        engine.open(rest + 1, fork_of=full[0])
    last = engine.open(rest)
    with pytest.raises(EngineFullError):
        engine.open(1)
    for sequence in (*full, last):
        engine.release(sequence)
    assert len([engine.open(MAX_CONTEXT) for _ in range(most)]) == most


def test_a_released_sequence_is_gone(engine):
    sequence = engine.open(8)
    engine.release(sequence)
    with pytest.raises(ValueError, match="sequence"):
        engine.step([StepItem(sequence, 0, random_rows(engine, 1, seed=21), Want.ALL)])
    with pytest.raises(ValueError, match="sequence"):
        engine.release(sequence)
    assert engine.open(8) != sequence


def test_the_engine_names_its_limits(engine):
    assert engine.capacity_tokens == CAPACITY_TOKENS
    assert engine.max_context_tokens == MAX_CONTEXT
    assert engine.dtype is Dtype.FP32
