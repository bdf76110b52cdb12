"""What every device engine promises, in the words of `DeviceEngine`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from device_runtime.engines.engine import Rows, SequenceId
from device_runtime.engines.submodel_engine import SubmodelEngine
from submodels.random_models import make_random_model
from tests.support.device_engines import (
    DEVICE_VARIANTS,
    ENGINES,
    logits_in_chunks,
    random_rows,
    rows_in_chunks,
    run_whole_model,
)
from tests.support.split_models import random_tokens, split

NUM_TOKENS = 40
CONTEXT = 512
# The same numbers added in another order; rows reach 7, logits 18.
MAX_ROUNDING = 3e-5

SUBJECTS = [
    *[(engine, "llama", m, k) for engine in ENGINES for m in (0, 1, 2) for k in (0, 1, 2)],
    *[
        (engine, family, 2, 1)
        for engine in ENGINES
        for family in (
            "llama, narrow heads with biases",
            "llama, linear rope",
            "llama, llama3 rope",
            "mistral sliding",
            "qwen2 sliding",
            "qwen2, yarn rope",
            "qwen3, heads between sizes",
            "qwen3, mixed layers, yarn with scaling, sharded",
        )
    ],
]


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine under test, with tokens for it and rows as a cloud might return them."""

    engine: SubmodelEngine
    num_input: int
    num_output: int
    token_ids: tuple[int, ...]
    deep: Rows
    is_exact: bool
    model: Path

    def replay(self, num_tokens: int) -> SequenceId:
        """A new sequence that holds the first tokens, in both submodels."""
        sequence = self.engine.open()
        if num_tokens:
            rows_in_chunks(self.engine, sequence, self.token_ids[:num_tokens], 8)
            logits_in_chunks(self.engine, sequence, self.deep[:num_tokens], 8)
        return sequence

    def go_on(self, sequence: SequenceId, start: int, size: int = 5) -> tuple[Rows, Rows]:
        """Rows and logits of the tokens from `start` on."""
        rows = rows_in_chunks(self.engine, sequence, self.token_ids[start:], size, start)
        return rows, logits_in_chunks(self.engine, sequence, self.deep[start:], size, start)

    def check_same(self, came: tuple[Rows, Rows], expected: tuple[Rows, Rows]) -> None:
        """Equal to the bit under ONNX Runtime, to rounding under torch."""
        for one, other in zip(came, expected, strict=True):
            if self.is_exact:
                np.testing.assert_array_equal(one, other)
            np.testing.assert_allclose(one, other, rtol=0, atol=MAX_ROUNDING)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint per family, by its name."""
    folder = tmp_path_factory.mktemp("models")
    for family in {family for _, family, _, _ in SUBJECTS}:
        make_random_model(DEVICE_VARIANTS[family], folder / family)
    return folder


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda p: f"{p[0]}, {p[1]}, {p[2]}+{p[3]}")
def subject(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Subject:
    engine_name, family, num_input, num_output = request.param
    bundle = tmp_path_factory.mktemp("split") / "bundle"
    split(models / family, bundle, num_input, num_output, onnx_weights=("float32",))
    engine = ENGINES[engine_name](bundle)
    tokens = random_tokens(NUM_TOKENS, engine.vocab_size)
    deep = random_rows(NUM_TOKENS, engine.hidden_size)
    is_exact = engine_name == "onnx"
    return Subject(engine, num_input, num_output, tokens, deep, is_exact, models / family)


def test_sizes_are_the_models(subject: Subject) -> None:
    engine = subject.engine
    sequence = engine.open()
    assert engine.max_context_tokens == CONTEXT
    assert engine.num_output_layers == subject.num_output
    rows = engine.input_rows(sequence, subject.token_ids[:3], 0)
    logits = engine.logits(sequence, subject.deep[:3], 0, 2)
    assert (rows.shape, rows.dtype) == ((3, engine.hidden_size), np.dtype(np.float32))
    assert (logits.shape, logits.dtype) == ((2, engine.vocab_size), np.dtype(np.float32))


@pytest.mark.parametrize("size", [1, 7, 16, 17])
def test_chunked_equals_whole(subject: Subject, size: int) -> None:
    whole = subject.go_on(subject.engine.open(), 0, NUM_TOKENS)
    chunked = subject.go_on(subject.engine.open(), 0, size)
    for came, expected in zip(chunked, whole, strict=True):
        np.testing.assert_allclose(came, expected, rtol=0, atol=MAX_ROUNDING)


def test_rows_and_logits_are_those_of_transformers(subject: Subject) -> None:
    whole = run_whole_model(subject.model, subject.token_ids)
    deep = whole.rows[-1 - subject.num_output]
    engine = subject.engine
    rows = rows_in_chunks(engine, engine.open(), subject.token_ids, 7)
    logits = logits_in_chunks(engine, engine.open(), deep, 7)
    np.testing.assert_allclose(rows, whole.rows[subject.num_input], rtol=0, atol=MAX_ROUNDING)
    np.testing.assert_allclose(logits, whole.logits, rtol=0, atol=MAX_ROUNDING)


def test_rows_depend_on_what_was_before_where_there_are_input_layers(subject: Subject) -> None:
    engine = subject.engine
    first, second = (engine.open() for _ in range(2))
    engine.input_rows(first, [1, 2, 3], 0)
    engine.input_rows(second, [3, 1, 2], 0)
    one, other = (engine.input_rows(sequence, [4], 3) for sequence in (first, second))
    assert np.array_equal(one, other) == (subject.num_input == 0)


def test_truncating_and_going_on_equals_never_having_drafted(subject: Subject) -> None:
    drafted, plain = subject.replay(20), subject.replay(20)
    wrong = random_tokens(9, subject.engine.vocab_size, seed=2)
    subject.engine.input_rows(drafted, wrong, 20)
    wrong_deep = random_rows(9, subject.engine.hidden_size, seed=2)
    subject.engine.logits(drafted, wrong_deep, 20, 9)
    subject.check_same(subject.go_on(drafted, 20), subject.go_on(plain, 20))


def test_sequences_do_not_touch_each_other(subject: Subject) -> None:
    alone = subject.go_on(subject.engine.open(), 0)
    sequence, neighbour = subject.engine.open(), subject.engine.open()
    rows, logits = [], []
    for start in range(0, NUM_TOKENS, 5):
        tokens, deep = subject.token_ids[start : start + 5], subject.deep[start : start + 5]
        rows.append(subject.engine.input_rows(sequence, tokens, start))
        subject.engine.input_rows(neighbour, tokens[::-1], start)
        logits.append(subject.engine.logits(sequence, deep, start, 5))
        subject.engine.logits(neighbour, deep[::-1], start, 5)
    subject.check_same((np.concatenate(rows), np.concatenate(logits)), alone)


@pytest.mark.parametrize("num_tokens", [0, 1, 20])
def test_a_fork_goes_on_as_a_replay_would(subject: Subject, num_tokens: int) -> None:
    source = subject.replay(25)
    fork = subject.engine.fork(source, num_tokens)
    replayed = subject.replay(num_tokens)
    subject.check_same(subject.go_on(fork, num_tokens), subject.go_on(replayed, num_tokens))


def test_a_fork_and_its_source_go_separate_ways(subject: Subject) -> None:
    source = subject.replay(20)
    fork = subject.engine.fork(source, 20)
    wrong = random_tokens(9, subject.engine.vocab_size, seed=2)
    subject.engine.input_rows(fork, wrong, 10)
    wrong_deep = random_rows(9, subject.engine.hidden_size, seed=2)
    subject.engine.logits(fork, wrong_deep, 10, 9)
    plain = subject.replay(20)
    subject.check_same(subject.go_on(source, 20), subject.go_on(plain, 20))


def test_a_fork_outlives_its_source(subject: Subject) -> None:
    source = subject.replay(20)
    fork = subject.engine.fork(source, 20)
    subject.engine.release(source)
    plain = subject.replay(20)
    subject.check_same(subject.go_on(fork, 20), subject.go_on(plain, 20))


def test_growing_keeps_what_was_held(subject: Subject) -> None:
    engine = subject.engine
    tokens = random_tokens(CONTEXT, engine.vocab_size, seed=3)
    deep = random_rows(CONTEXT, engine.hidden_size, seed=3)
    whole, grown = engine.open(), engine.open()
    expected = engine.input_rows(whole, tokens, 0), engine.logits(whole, deep, 0, CONTEXT)
    came = rows_in_chunks(engine, grown, tokens, 100), logits_in_chunks(engine, grown, deep, 100)
    for one, other in zip(came, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=MAX_ROUNDING)


def test_results_stay_as_they_were_returned(subject: Subject) -> None:
    sequence = subject.engine.open()
    rows = subject.engine.input_rows(sequence, subject.token_ids[:3], 0)
    logits = subject.engine.logits(sequence, subject.deep[:3], 0, 3)
    rows_before, logits_before = rows.copy(), logits.copy()
    subject.engine.input_rows(sequence, subject.token_ids[3:6], 3)
    subject.engine.logits(sequence, subject.deep[3:6], 3, 3)
    np.testing.assert_array_equal(rows, rows_before)
    np.testing.assert_array_equal(logits, logits_before)


@pytest.mark.parametrize("num_rows", [3, 20])
def test_deep_rows_may_be_read_only_and_strided(subject: Subject, num_rows: int) -> None:
    deep = subject.deep[: 2 * num_rows : 2]
    strided = deep.view()
    strided.flags.writeable = False
    first, second = subject.engine.open(), subject.engine.open()
    came = subject.engine.logits(first, strided, 0, 2)
    np.testing.assert_array_equal(came, subject.engine.logits(second, deep.copy(), 0, 2))


def test_asking_for_fewer_logits_gives_the_last_and_still_fills_the_cache(
    subject: Subject,
) -> None:
    every, few = subject.engine.open(), subject.engine.open()
    all_logits = subject.engine.logits(every, subject.deep[:12], 0, 12)
    assert subject.engine.logits(few, subject.deep[:8], 0, 0).shape == (
        0,
        subject.engine.vocab_size,
    )
    last = subject.engine.logits(few, subject.deep[8:12], 8, 2)
    np.testing.assert_allclose(last, all_logits[-2:], rtol=0, atol=MAX_ROUNDING)


def test_without_output_layers_the_position_of_deep_rows_is_ignored(subject: Subject) -> None:
    if subject.num_output:
        pytest.skip("the output layers keep a cache")
    sequence = subject.engine.open()
    far = subject.engine.logits(sequence, subject.deep[:4], 10_000, 4)
    np.testing.assert_array_equal(far, subject.engine.logits(sequence, subject.deep[:4], 0, 4))


def test_new_tokens_outdate_deep_rows_behind_them(subject: Subject) -> None:
    if not subject.num_output:
        pytest.skip("without output layers nothing is kept of deep rows")
    sequence = subject.replay(20)
    subject.engine.input_rows(sequence, subject.token_ids[:2], 12)
    with pytest.raises(ValueError, match=r"expected a position in \[0, 12\], got 14"):
        subject.engine.logits(sequence, subject.deep[:1], 14, 1)


@pytest.mark.parametrize(
    ("position", "message"), [(6, r"position in \[0, 5\], got 6"), (-1, r"\[0, 5\], got -1")]
)
def test_a_gap_is_refused_and_nothing_changes(
    subject: Subject, position: int, message: str
) -> None:
    sequence, plain = subject.replay(5), subject.replay(5)
    with pytest.raises(ValueError, match=message):
        subject.engine.input_rows(sequence, [1], position)
    if subject.num_output:
        with pytest.raises(ValueError, match=message):
            subject.engine.logits(sequence, subject.deep[:1], position, 1)
    subject.check_same(subject.go_on(sequence, 5), subject.go_on(plain, 5))


def test_more_than_the_context_is_refused(subject: Subject) -> None:
    engine = subject.engine
    sequence = engine.open()
    tokens = random_tokens(CONTEXT, engine.vocab_size)
    assert engine.input_rows(sequence, tokens, 0).shape[0] == CONTEXT
    with pytest.raises(ValueError, match="at most 512 positions, got 1 rows at 512"):
        engine.input_rows(sequence, [1], CONTEXT)
    if subject.num_output:
        with pytest.raises(ValueError, match="at most 512 positions, got 513 rows at 0"):
            engine.logits(sequence, random_rows(CONTEXT + 1, engine.hidden_size), 0, 1)


def test_ids_outside_the_vocabulary_are_refused(subject: Subject) -> None:
    vocab_size = subject.engine.vocab_size
    sequence = subject.engine.open()
    for wrong in (-1, vocab_size, 1 << 70):
        with pytest.raises(ValueError, match=r"expected .*token id"):
            subject.engine.input_rows(sequence, [0, wrong], 0)
    with pytest.raises(ValueError, match="expected at least one"):
        subject.engine.input_rows(sequence, [], 0)


def test_deep_rows_of_a_wrong_shape_or_format_are_refused(subject: Subject) -> None:
    engine, deep = subject.engine, subject.deep
    sequence = engine.open()
    for wrong in (deep[:2, :-1], deep[0], deep[:0]):
        with pytest.raises(ValueError, match=r"expected deep rows \[T, "):
            engine.logits(sequence, wrong, 0, 0)
    with pytest.raises(ValueError, match="expected float32 deep rows, got float64"):
        engine.logits(sequence, deep[:2].astype(np.float64), 0, 1)
    for num_logits in (-1, 3):
        with pytest.raises(ValueError, match=f"expected 0 to 2 logits, got {num_logits}"):
            engine.logits(sequence, deep[:2], 0, num_logits)


def test_forking_more_than_is_held_is_refused(subject: Subject) -> None:
    sequence = subject.replay(5)
    for num_tokens in (-1, 6):
        with pytest.raises(ValueError, match=rf"expected to fork 0 to 5 .* got {num_tokens}"):
            subject.engine.fork(sequence, num_tokens)


def test_forking_more_than_the_output_layers_hold_is_refused(subject: Subject) -> None:
    if not subject.num_output:
        pytest.skip("without output layers nothing is kept of deep rows")
    sequence = subject.replay(3)
    subject.engine.input_rows(sequence, subject.token_ids[3:5], 3)
    with pytest.raises(ValueError, match="expected to fork 0 to 3 positions, got 5"):
        subject.engine.fork(sequence, 5)


def test_a_released_sequence_is_unknown(subject: Subject) -> None:
    sequence = subject.replay(5)
    subject.engine.release(sequence)
    calls = (
        lambda: subject.engine.input_rows(sequence, [1], 0),
        lambda: subject.engine.logits(sequence, subject.deep[:1], 0, 1),
        lambda: subject.engine.fork(sequence, 0),
        lambda: subject.engine.release(sequence),
    )
    for call in calls:
        with pytest.raises(ValueError, match=f"expected an open sequence, got {sequence}"):
            call()
    assert subject.engine.open() != sequence
