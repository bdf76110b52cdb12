"""An engine in float32 whose rows cross in bfloat16 keeps the contract, up to one rounding."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from cloud_server.core.actions import OpenSequence, Refusal, SequenceHandle, Step, StepWork
from cloud_server.daemon.step_runner import StepRunner
from cloud_server.engines.engine import MiddleEngine, Rows
from tests.support.middle_engines import ENGINES, as_rows, run_one
from tests.support.middle_models import MiddleModel, make_middle_model
from tests.support.vllm_engines import HEAD_DIM, has_vllm
from wire.messages import Dtype, Want
from wire.numbers import pack_rows, unpack_rows

NAMES = [name for name in ENGINES if "cuda" not in name and (has_vllm() or "vllm" not in name)]
HALF_A_STEP = 2.0**-8
"""Half of the distance between two neighbouring bfloat16 numbers, as a share of them at most."""


@pytest.fixture(params=NAMES, scope="module")
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def middle(engine_name: str) -> MiddleModel:
    is_vllm = engine_name.startswith("vllm")
    return make_middle_model("qwen2-plain", head_dim=HEAD_DIM if is_vllm else 8)


@pytest.fixture
def engine(engine_name: str, middle: MiddleModel) -> MiddleEngine:
    return ENGINES[engine_name](middle, Dtype.FP32)


class Link:
    """One sequence's rows to an engine and back, all in bfloat16."""

    def __init__(self, engine: MiddleEngine) -> None:
        self._hidden_size = engine.hidden_size
        self._runner = StepRunner(engine, itertools.count().__next__, Dtype.BF16)
        self._opened: list[SequenceHandle] = []

    def send(self, handle: SequenceHandle, position: int, rows: Rows) -> Rows:
        """The deep rows, as the device unpacks them."""
        commands = () if handle in self._opened else (OpenSequence(handle, 64),)
        self._opened.append(handle)
        payload = pack_rows(rows, Dtype.BF16)
        work = StepWork(handle, position, len(rows), Want.ALL, payload)
        (result,) = self._runner.run(Step(1, commands, (work,))).results
        assert not isinstance(result, Refusal), result
        assert len(result) == len(payload) == 2 * rows.size
        deep = unpack_rows(result, len(rows), self._hidden_size, Dtype.BF16)
        return deep.astype(np.float32)

    def send_in_chunks(self, handle: SequenceHandle, rows: Rows, sizes: Sequence[int]) -> Rows:
        """The deep rows of all chunks."""
        starts = itertools.accumulate(sizes, initial=0)
        parts = [
            self.send(handle, start, rows[start : start + size])
            for start, size in zip(starts, sizes, strict=False)
        ]
        return np.concatenate(parts)


FIRST, SECOND = SequenceHandle(1), SequenceHandle(2)


def rounded(rows: Rows) -> Rows:
    """Rows as they are after they have crossed once."""
    return unpack_rows(pack_rows(rows, Dtype.BF16), *rows.shape, Dtype.BF16).astype(np.float32)


def assert_one_rounding(rows: Rows, expected: Rows, roundings: float = 1.0) -> None:
    """No more apart than `expected` and its own rounding, and the order of float32 additions."""
    largest = float(np.abs(expected).max())
    allowed = roundings * HALF_A_STEP * np.abs(expected) + 1e-5 * max(1.0, largest)
    assert (np.abs(rows - expected) <= allowed).all()


def test_rows_are_rounded_where_they_cross_and_nowhere_else(engine, middle) -> None:
    shallow, _ = middle.rows(40, seed=1)
    rows = as_rows(shallow, Dtype.FP32)
    exact = engine.open(64)
    expected = run_one(engine, exact, 0, rounded(rows))
    assert_one_rounding(Link(engine).send(FIRST, 0, rows), expected)


@pytest.mark.parametrize("sizes", [(1,) * 8 + (32,), (7, 32, 1), (39, 1)])
def test_a_prompt_in_chunks_equals_the_prompt_whole(engine, middle, sizes) -> None:
    rows = as_rows(middle.rows(40, seed=2)[0], Dtype.FP32)
    link = Link(engine)
    whole = link.send(FIRST, 0, rows)
    assert_one_rounding(link.send_in_chunks(SECOND, rows, sizes), whole, roundings=2)


@pytest.mark.parametrize("num_kept", [0, 5, 20])
def test_truncating_and_going_on_equals_never_having_drafted(engine, middle, num_kept) -> None:
    rows = as_rows(middle.rows(40, seed=3)[0], Dtype.FP32)
    link = Link(engine)
    link.send(FIRST, 0, rows[:20])
    link.send(FIRST, 20, rows[30:39])
    went_on = link.send(FIRST, num_kept, rows[num_kept:30])
    plain = link.send(SECOND, 0, rows[:30])[num_kept:]
    assert_one_rounding(went_on, plain, roundings=2)
