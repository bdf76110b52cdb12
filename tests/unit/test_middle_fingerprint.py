"""What belongs to a middle, and what is left to the ends (docs/decisions/0035)."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from submodels.bundle.fingerprint import middle_fingerprint_of
from submodels.manifest import LLAMA, Description, Manifest, ModelShape, Rope, WireRotation
from submodels.random_models import RandomModel, make_random_model
from tests.support.other_ends import fine_tune, nudged, with_more_tokens
from tests.support.split_models import split


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    make_random_model(RandomModel("llama", num_layers=4), folder)
    return folder


def _device(model: Path, out: Path, **options: Any) -> Manifest:
    return split(model, out, 1, 1, **options).device


def test_both_sides_of_a_split_tell_of_one_middle(base: Path, tmp_path: Path) -> None:
    result = split(base, tmp_path / "out", 1, 1)
    assert middle_fingerprint_of(result.device) == middle_fingerprint_of(result.cloud)


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (nudged("embed_tokens", "lm_head", "model.norm"), {}),
        (nudged("layers.0.", "layers.3."), {}),
        (with_more_tokens(5), {"vocab_size": 266}),
        (nudged("nothing"), {"max_position_embeddings": 300}),
    ],
    ids=["embedding, head and norm", "outer layers", "vocabulary", "context"],
)
def test_other_ends_leave_the_middle_what_it_is(
    base: Path, tmp_path: Path, change: Any, settings: dict[str, Any]
) -> None:
    tuned = _device(fine_tune(base, tmp_path / "tuned", change, settings), tmp_path / "out")
    plain = _device(base, tmp_path / "plain")
    assert tuned.fingerprint != plain.fingerprint
    assert middle_fingerprint_of(tuned) == middle_fingerprint_of(plain)


@pytest.mark.parametrize(
    ("change", "settings", "options"),
    [
        (nudged("layers.2.mlp.down"), {}, {}),
        (nudged("nothing"), {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}, {}),
        (nudged("nothing"), {"rms_norm_eps": 1e-3}, {}),
        (nudged("nothing"), {}, {"dtype": "bfloat16"}),
        (nudged("nothing"), {}, {"rotation_seed": 0}),
        (nudged("nothing"), {}, {"rotation_seed": 1}),
    ],
    ids=["a tensor", "positions", "a norm's epsilon", "format", "rotated", "rotated otherwise"],
)
def test_what_the_cloud_computes_by_makes_another_middle(
    base: Path, tmp_path: Path, change: Any, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    other = fine_tune(base, tmp_path / "other", change, settings)
    plain = _device(base, tmp_path / "plain")
    assert middle_fingerprint_of(_device(other, tmp_path / "out", **options)) != (
        middle_fingerprint_of(plain)
    )


def test_other_layers_on_the_device_make_another_middle(base: Path, tmp_path: Path) -> None:
    prints = {
        middle_fingerprint_of(split(base, tmp_path / f"{m}-{k}", m, k).cloud)
        for m, k in ((1, 0), (0, 1), (1, 1), (2, 1))
    }
    assert len(prints) == 4


_OTHER_SHAPES: dict[str, Any] = {
    "model_type": "other",
    "hidden_size": 1,
    "intermediate_size": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 1,
    "rms_norm_eps": 1.0,
    "hidden_act": "gelu",
    "sliding_windows": (None, 3, None, None),
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "qk_norm": True,
    "description": Description(residual_scale=0.5),
}
_OF_THE_ENDS: dict[str, Any] = {
    "vocab_size": 7,
    "tied_embeddings": True,
    "max_context_tokens": 9,
    "rms_norm_eps": 9.99999997475243e-07,
    "sliding_windows": (5, None, None, 5),
    "rope": Rope(inv_freq=(1.0,)),
    "description": Description(
        embedding_scale=2.0, logit_scale=2.0, logit_softcap=30.0, layer_ropes=()
    ),
}
"""Rotary numbers are covered by their parameters, windows of layers on the device by nothing, and
an epsilon is a number of float32 wherever it is computed with."""


def test_every_field_of_a_shape_is_known_to_count_or_not(base: Path, tmp_path: Path) -> None:
    manifest = _device(base, tmp_path / "out")
    plain = middle_fingerprint_of(manifest)
    known = _OTHER_SHAPES.keys() | _OF_THE_ENDS.keys() | {"num_layers"}
    assert set(ModelShape.__struct_fields__) == known
    for changes, counts in ((_OTHER_SHAPES, True), (_OF_THE_ENDS, False)):
        for name, value in changes.items():
            shape = msgspec.structs.replace(manifest.shape, **{name: value})
            changed = msgspec.structs.replace(manifest, shape=shape)
            assert (middle_fingerprint_of(changed) != plain) is counts, name


def test_a_rotation_that_is_only_told_counts_as_well(base: Path, tmp_path: Path) -> None:
    manifest = _device(base, tmp_path / "out")
    told = WireRotation(seed=1, sizes=(64,))
    rotated = msgspec.structs.replace(manifest, wire_rotation=told)
    assert middle_fingerprint_of(rotated) != middle_fingerprint_of(manifest)


def test_a_description_that_says_nothing_is_none() -> None:
    assert msgspec.to_builtins(LLAMA) == {}
