"""A split whose hidden states are rotated says what the model says, and sends rotated rows."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from submodels.random_models import RandomModel, make_random_model
from submodels.rotation.rotation import Rotation, seeded_rotation
from tests.support.device_engines import (
    ENGINES,
    ODD_SIZES,
    WholeModel,
    logits_in_chunks,
    rows_in_chunks,
    run_whole_model,
)
from tests.support.split_models import (
    VARIANTS,
    SplitModel,
    random_tokens,
    reference_logits,
    split,
)

NUM_TOKENS = 70
NUM_INPUT = NUM_OUTPUT = 1
SEED = 5
# Logits have a deviation of 3 and reach 18; an unrotated split is up to 2.5e-5 away.
MAX_ERROR = 1e-4
CASES: Mapping[str, RandomModel] = MappingProxyType({**VARIANTS, **ODD_SIZES})
STORIES = Path(__file__).parents[2] / "models" / "stories260k"


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, RandomModel]:
    """The checkpoint's folder, its bundles, and what it is."""
    folder = tmp_path_factory.mktemp("model")
    make_random_model(request.param, folder / "model")
    options = {"rotation_seed": SEED, "onnx_weights": ("float32",)}
    split(folder / "model", folder / "out", NUM_INPUT, NUM_OUTPUT, **options)
    return folder / "model", folder / "out", request.param


def test_the_rotated_model_in_chunks_equals_the_whole_model(
    case: tuple[Path, Path, RandomModel],
) -> None:
    folder, out, model = case
    token_ids = random_tokens(NUM_TOKENS, model.vocab_size)
    logits = SplitModel(out).chunked_logits(token_ids, (7, 1, 3, 16))
    assert (logits - reference_logits(folder, token_ids)).abs().max() < MAX_ERROR


@pytest.mark.parametrize("engine_name", ENGINES)
def test_the_device_sends_rotated_rows_and_takes_them(
    case: tuple[Path, Path, RandomModel], engine_name: str
) -> None:
    folder, out, model = case
    token_ids = random_tokens(NUM_TOKENS, model.vocab_size)
    whole: WholeModel = run_whole_model(folder, token_ids)
    rotation: Rotation = seeded_rotation(model.hidden_size, SEED)
    engine = ENGINES[engine_name](out / "device")
    sequence = engine.open()
    rows = rows_in_chunks(engine, sequence, token_ids, 16)
    assert np.abs(rows - rotation.turn(whole.rows[NUM_INPUT])).max() < MAX_ERROR
    assert np.abs(rows - whole.rows[NUM_INPUT]).max() > 1
    deep = rotation.turn(whole.rows[-1 - NUM_OUTPUT]).astype(np.float32)
    logits = logits_in_chunks(engine, sequence, deep, 16)
    assert np.abs(logits - whole.logits).max() < MAX_ERROR


def test_the_real_model_rotated_equals_itself(tmp_path: Path) -> None:
    token_ids = random_tokens(200, 512)
    split(STORIES, tmp_path / "out", 1, rotation_seed=SEED)
    logits = SplitModel(tmp_path / "out").chunked_logits(token_ids, (64, 5))
    assert (logits - reference_logits(STORIES, token_ids)).abs().max() < MAX_ERROR
