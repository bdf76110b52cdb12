"""Whatever config.json says of a quantisation, a checkpoint is read or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from submodels.checkpoint.opening import opened_checkpoint
from submodels.errors import SplitError
from submodels.random_models import RandomModel, make_random_model
from tests.support.quantised_models import KINDS, quantise

NAMES = (
    "gptq, in order of activations",
    "awq",
    "fp8, blocks",
    "compressed-tensors, int4 in order of activations",
    "bitsandbytes nf4, nested",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp("model")
        kind = KINDS[name]
        model = RandomModel(num_layers=1, dtype=kind.dtype)  # type: ignore[arg-type]
        make_random_model(model, folder / "model")
        quantise(folder / "model", kind, folder / "packed", folder / "plain")
        made[name] = folder / "packed"
    return made


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key of nested objects, the outermost first."""
    if not isinstance(value, dict):
        return []
    inner = [found for key in value for found in _places(value[key], (*path, key))]
    return [(*path, key) for key in value] + inner


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_setting_is_read_or_refused_in_one_line(
    folders: dict[str, Path], data: st.DataObject
) -> None:
    folder = folders[data.draw(st.sampled_from(NAMES))]
    path = folder / "config.json"
    before = path.read_text()
    config = json.loads(before)
    told = config["quantization_config"]
    place = data.draw(st.sampled_from(_places(told)))
    value = data.draw(VALUES)
    for key in place[:-1]:
        told = told[key]
    told[place[-1]] = value
    refusal = ""
    try:
        path.write_text(json.dumps(config))
        with opened_checkpoint(folder) as checkpoint:
            assert all(tensor.dtype in ("BF16", "F16") for tensor in checkpoint.tensors.values())
            for tensor in checkpoint.tensors.values():
                assert sum(map(len, tensor.pieces())) == tensor.num_bytes
    except SplitError as error:
        refusal = str(error)
    finally:
        path.write_text(before)
    assert "\n" not in refusal
