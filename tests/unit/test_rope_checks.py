"""Rotary numbers of every family and rope type that can be split fit their parameters."""

from pathlib import Path

import pytest

from submodels.bundle.bundle import load_bundle
from submodels.manifest import Rope
from submodels.plan.checks import check_rope
from submodels.random_models import make_random_model
from tests.support.split_models import VARIANTS, split


@pytest.mark.parametrize("name", VARIANTS)
def test_what_was_split_is_loaded_and_a_changed_frequency_is_not(tmp_path: Path, name: str) -> None:
    make_random_model(VARIANTS[name], tmp_path / "model")
    split(tmp_path / "model", tmp_path / "out", 1)
    manifest = load_bundle(tmp_path / "out", "device").manifest
    rope, head_dim = manifest.shape.rope, manifest.shape.head_dim
    for index, frequency in enumerate(rope.inv_freq):
        numbers = [*rope.inv_freq]
        numbers[index] = frequency * 100
        with pytest.raises(ValueError, match=f"frequency {index}"):
            check_rope(
                Rope(inv_freq=tuple(numbers), attention_scaling=rope.attention_scaling),
                manifest.rope_parameters,
                head_dim,
            )


@pytest.mark.parametrize("parameters", [{}, {"rope_theta": "x"}, {"rope_theta": -1.0}])
def test_parameters_that_are_none_are_refused(parameters: dict[str, float | str]) -> None:
    with pytest.raises(ValueError, match="rope_parameters"):
        check_rope(Rope(inv_freq=(1.0,)), parameters, 2)
