"""What every middle engine must keep of sequences that go to host memory and come back."""

import numpy as np
import pytest

from cloud_server.engines.engine import EngineFullError, HostCopy, MiddleEngine, StepItem
from tests.support.middle_engines import CAPACITY_TOKENS, assert_near, random_rows, run_one
from wire.messages import Want

NUM_ROWS = 150
MORE = 20


def in_blocks(engine: MiddleEngine, num_tokens: int) -> int:
    """So many positions, or a few more, that fill blocks."""
    return -(-num_tokens // engine.block_tokens) * engine.block_tokens


def saved(engine: MiddleEngine, sequence: int, num_tokens: int, num_pieces: int) -> list[HostCopy]:
    """The first positions of a sequence in host memory, in pieces."""
    piece = in_blocks(engine, -(-num_tokens // num_pieces))
    copies = [
        engine.save(sequence, begin, min(begin + piece, num_tokens))
        for begin in range(0, num_tokens, piece)
    ]
    for copy in copies:
        copy.wait()
    return copies


def restored(
    engine: MiddleEngine, copies: list[HostCopy], num_tokens: int, max_tokens: int, piece: int
) -> int:
    """A new sequence with so many positions of these copies, put back in pieces of their own."""
    sequence = engine.open(max_tokens)
    pending, done = [], 0
    while done < num_tokens:
        (copy,) = [each for each in copies if each.begin <= done < each.end]
        end = min(done + in_blocks(engine, piece), copy.end, num_tokens)
        pending.append(engine.restore(sequence, copy, done, end))
        done = end
    for each in pending:
        each.wait()
    return sequence


@pytest.mark.parametrize(("num_pieces", "piece"), [(1, 1000), (3, 1000), (1, 16), (2, 40)])
@pytest.mark.parametrize("num_rows", [1, NUM_ROWS])
def test_a_saved_sequence_goes_on_as_if_it_had_never_left(engine, num_rows, num_pieces, piece):
    rows = random_rows(engine, num_rows + MORE, seed=1)
    leaving, staying = engine.open(400), engine.open(400)
    for sequence in (leaving, staying):
        run_one(engine, sequence, 0, rows[:num_rows], Want.NONE)
    copies = saved(engine, leaving, num_rows, num_pieces)
    engine.release(leaving)
    other = engine.open(400)
    run_one(engine, other, 0, random_rows(engine, 300, seed=2), Want.NONE)
    back = restored(engine, copies, num_rows, 400, piece)
    for copy in copies:
        engine.drop(copy).wait()
    out = run_one(engine, back, num_rows, rows[num_rows:])
    assert_near(out, run_one(engine, staying, num_rows, rows[num_rows:]))


def test_a_copy_outlives_what_becomes_of_its_sequence(engine):
    rows = random_rows(engine, NUM_ROWS + MORE, seed=3)
    sequence, plain = engine.open(300), engine.open(300)
    for each in (sequence, plain):
        run_one(engine, each, 0, rows[:NUM_ROWS], Want.NONE)
    copies = saved(engine, sequence, NUM_ROWS, 2)
    run_one(engine, sequence, 3, random_rows(engine, 200, seed=4), Want.NONE)
    back = restored(engine, copies, NUM_ROWS, 300, 64)
    out = run_one(engine, back, NUM_ROWS, rows[NUM_ROWS:])
    assert_near(out, run_one(engine, plain, NUM_ROWS, rows[NUM_ROWS:]))


@pytest.mark.parametrize("num_shared", [1, 32, 77, NUM_ROWS])
def test_several_sequences_begin_as_one_copy_and_go_their_own_ways(engine, num_shared):
    rows, others = random_rows(engine, NUM_ROWS, seed=5), random_rows(engine, MORE, seed=6)
    source = engine.open(200)
    run_one(engine, source, 0, rows, Want.NONE)
    copies = saved(engine, source, NUM_ROWS, 2)
    engine.release(source)
    first, second = (restored(engine, copies, num_shared, 200, 64) for _ in range(2))
    expected = engine.open(200)
    run_one(engine, expected, 0, rows[:num_shared], Want.NONE)
    answers = engine.step(
        [StepItem(each, num_shared, others, Want.ALL) for each in (first, second, expected)]
    )
    assert_near(answers[0], answers[2])
    assert_near(answers[1], answers[2])
    # One goes on elsewhere; the other has not noticed.
    run_one(engine, first, 0, random_rows(engine, 40, seed=7), Want.NONE)
    out = run_one(engine, second, num_shared + MORE, others)
    assert_near(out, run_one(engine, expected, num_shared + MORE, others))


def test_a_fork_of_a_restored_sequence_and_one_of_what_is_still_there_do_not_touch(engine):
    rows, others = random_rows(engine, NUM_ROWS, seed=8), random_rows(engine, MORE, seed=9)
    source = engine.open(200)
    run_one(engine, source, 0, rows, Want.NONE)
    stays = engine.open(200, fork_of=source, fork_tokens=70)
    copies = saved(engine, source, NUM_ROWS, 1)
    engine.release(source)
    back = restored(engine, copies, NUM_ROWS, 200, 1000)
    child = engine.open(200, fork_of=back, fork_tokens=70)
    run_one(engine, back, 50, others, Want.NONE)
    assert_near(run_one(engine, child, 70, others), run_one(engine, stays, 70, others))


def test_what_is_saved_needs_no_room_in_the_engine(engine):
    length = min(engine.max_context_tokens, in_blocks(engine, 500))
    rows = random_rows(engine, 40, seed=10)
    kept, out = [], []
    for number in range(2 * CAPACITY_TOKENS // length):
        sequence = engine.open(length)
        run_one(engine, sequence, 0, rows[: 20 + number], Want.NONE)
        kept.append(saved(engine, sequence, 20 + number, 1))
        engine.release(sequence)
    for number, copies in enumerate(kept):
        back = restored(engine, copies, 20 + number, length, 1000)
        out.append(run_one(engine, back, 20 + number, rows[:5]))
        engine.release(back)
    plain = engine.open(length)
    run_one(engine, plain, 0, rows[:20], Want.NONE)
    assert_near(out[0], run_one(engine, plain, 20, rows[:5]))
    assert not np.array_equal(out[0], out[1])


def test_a_restored_sequence_takes_the_room_that_it_was_opened_for(engine):
    length = in_blocks(engine, 100)
    sequence = engine.open(length)
    run_one(engine, sequence, 0, random_rows(engine, 60, seed=11), Want.NONE)
    copies = saved(engine, sequence, 60, 1)
    engine.release(sequence)
    full = [engine.open(length) for _ in range(engine.capacity_tokens // length)]
    with pytest.raises(EngineFullError):
        engine.open(length)
    engine.release(full.pop())
    back = restored(engine, copies, 60, length, 1000)
    run_one(engine, back, 60, random_rows(engine, length - 60, seed=12))


def test_wrong_copies_are_refused_and_change_nothing(engine):
    rows = random_rows(engine, 70, seed=13)
    sequence, other = engine.open(200), engine.open(66)
    run_one(engine, sequence, 0, rows, Want.NONE)
    for begin, end in ((0, 71), (5, 5), (-1, 10), (70, 71)):
        with pytest.raises(ValueError, match="cannot save"):
            engine.save(sequence, begin, end)
    copies = saved(engine, sequence, 70, 1)
    with pytest.raises(ValueError, match="opened for 66"):
        engine.restore(other, copies[0], 0, 70)
    for begin, end in ((0, 71), (0, 0), (32, 64)):
        with pytest.raises(ValueError, match="cannot restore"):
            engine.restore(other, copies[0], begin, end)
    with pytest.raises(ValueError, match="sequence"):
        engine.save(max(sequence, other) + 1, 0, 1)
    expected = run_one(engine, other, 0, rows[:9])
    np.testing.assert_array_equal(run_one(engine, sequence, 0, rows[:9]), expected)
