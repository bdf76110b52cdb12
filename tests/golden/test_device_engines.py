"""Device engines compute the rows and logits that transformers computes, in every family."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from device_runtime.engines.engine import Rows
from device_runtime.engines.onnx_engine import load_onnx_engine
from device_runtime.engines.submodel_engine import SubmodelEngine
from submodels.random_models import make_random_model
from tests.support.device_engines import (
    DEVICE_VARIANTS,
    ENGINES,
    WholeModel,
    logits_in_chunks,
    rows_in_chunks,
    run_whole_model,
)
from tests.support.split_models import random_tokens, split

NUM_TOKENS = 90
NUM_INPUT = 2
NUM_OUTPUT = 2
# Rows reach 7, logits 18. Measured: up to 5e-6 and 1e-5, which is rounding, once per layer.
MAX_ROW_ERROR = 1e-5
MAX_LOGIT_ERROR = 3e-5
STORIES = Path(__file__).parents[2] / "models" / "stories260k"


@dataclass(frozen=True, slots=True)
class Case:
    """A model that was split with all ONNX weights, and what the whole of it computes."""

    bundle: Path
    token_ids: tuple[int, ...]
    whole: WholeModel

    @property
    def deep(self) -> Rows:
        """What the cloud returns: the rows before the output layers."""
        return self.whole.rows[-1 - NUM_OUTPUT]


@pytest.fixture(scope="module", params=DEVICE_VARIANTS.values(), ids=list(DEVICE_VARIANTS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    model = request.param
    folder = tmp_path_factory.mktemp("model")
    make_random_model(model, folder / "model")
    return _case(folder / "model", folder / "bundle", model.vocab_size)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return _case(STORIES, tmp_path_factory.mktemp("stories") / "bundle", 512)


@pytest.mark.parametrize("size", [1, 7, 64, NUM_TOKENS])
@pytest.mark.parametrize("engine_name", ENGINES)
def test_rows_and_logits_equal_the_whole_models(case: Case, engine_name: str, size: int) -> None:
    _check_float32(case, ENGINES[engine_name](case.bundle), size)


@pytest.mark.parametrize("size", [1, 7, 64, NUM_TOKENS])
@pytest.mark.parametrize("engine_name", ENGINES)
def test_rows_and_logits_of_the_real_model_equal_its_own(
    stories: Case, engine_name: str, size: int
) -> None:
    _check_float32(stories, ENGINES[engine_name](stories.bundle), size)


# Relative deviations measured here: int8 0.005 to 0.03, int4 0.05 to 0.3.
@pytest.mark.parametrize(("weights", "least", "most"), [("int8", 1e-3, 0.06), ("int4", 0.02, 0.5)])
def test_integer_weights_come_close_and_differ(
    case: Case, weights: str, least: float, most: float
) -> None:
    rows, logits = _outputs(case, load_onnx_engine(case.bundle, weights, 1, None), 7)
    assert least < _deviation(rows, case.whole.rows[NUM_INPUT]) < most
    assert least < _deviation(logits, case.whole.logits) < most


@pytest.mark.parametrize(("weights", "most_flips"), [("int8", 0.1), ("int4", 0.6)])
def test_integer_weights_mostly_choose_the_real_models_tokens(
    stories: Case, weights: str, most_flips: float
) -> None:
    _, logits = _outputs(stories, load_onnx_engine(stories.bundle, weights, 1, None), 64)
    flips = logits.argmax(-1) != stories.whole.logits.argmax(-1)
    assert flips.mean() < most_flips


def _case(model: Path, bundle: Path, vocab_size: int) -> Case:
    split(model, bundle, NUM_INPUT, NUM_OUTPUT, onnx_weights=("float32", "int8", "int4"))
    token_ids = random_tokens(NUM_TOKENS, vocab_size)
    return Case(bundle, token_ids, run_whole_model(model, token_ids))


def _check_float32(case: Case, engine: SubmodelEngine, size: int) -> None:
    rows, logits = _outputs(case, engine, size)
    assert np.abs(rows - case.whole.rows[NUM_INPUT]).max() < MAX_ROW_ERROR
    assert np.abs(logits - case.whole.logits).max() < MAX_LOGIT_ERROR


def _outputs(case: Case, engine: SubmodelEngine, size: int) -> tuple[Rows, Rows]:
    sequence = engine.open()
    rows = rows_in_chunks(engine, sequence, case.token_ids, size)
    return rows, logits_in_chunks(engine, sequence, case.deep, size)


def _deviation(came: Rows, expected: Rows) -> float:
    """The root mean square of the difference, relative to that of `expected`."""
    return float(np.linalg.norm(came - expected) / np.linalg.norm(expected))
