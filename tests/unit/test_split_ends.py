"""`hat split --middle-of`: other ends for a middle that is there already."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from hat.commands.split import split as split_command
from submodels.bundle.bundle import load_bundle
from submodels.bundle.fingerprint import middle_fingerprint_of
from submodels.errors import BundleError, OtherMiddleError
from submodels.random_models import RandomModel, make_random_model
from tests.support.other_ends import fine_tune, nudged, with_more_tokens
from tests.support.split_models import split

NUM_MIDDLE_TENSORS = 2 * 9
"""Of the two middle layers of these models."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    make_random_model(RandomModel("llama", num_layers=4), folder)
    return folder


@pytest.fixture(scope="module")
def bundles(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split(base, tmp_path_factory.mktemp("bundles") / "base", 1, 1).out


def _ends(model: Path, out: Path, middle: Path, **options: Any) -> Any:
    return split(model, out, options.pop("num_input", None), middle_of=middle, **options)


@pytest.mark.parametrize("part", ["", "cloud", "device"])
def test_ends_for_the_same_middle_are_a_device_bundle_alone(
    base: Path, bundles: Path, tmp_path: Path, part: str
) -> None:
    change = with_more_tokens(5)
    tuned = fine_tune(base, tmp_path / "tuned", change, {"vocab_size": 266})
    result = _ends(tuned, tmp_path / "out", bundles / part)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"device"}
    device = load_bundle(tmp_path / "out", "device", verify=True).manifest
    cloud = load_bundle(bundles, "cloud").manifest
    assert middle_fingerprint_of(device) == middle_fingerprint_of(cloud)
    assert (device.num_input_layers, device.num_output_layers) == (1, 1)
    assert device.fingerprint == split(tuned, tmp_path / "whole", 1, 1).device.fingerprint
    assert device.shape.vocab_size == 266
    assert result.middle.manifest == (cloud if part != "device" else result.cloud)


def test_tensors_that_differ_are_named_in_order_with_how_far(
    base: Path, bundles: Path, tmp_path: Path
) -> None:
    names = ("layers.1.mlp.up", "layers.2.self_attn.q_proj", "layers.2.input_layernorm")
    tuned = fine_tune(base, tmp_path / "tuned", nudged(*names))
    with pytest.raises(OtherMiddleError) as refused:
        _ends(tuned, tmp_path / "out", bundles)
    assert not (tmp_path / "out").exists()
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    greatest = {
        name: float((before[name].double() - after[name].double()).abs().max())
        for name in before
        if not torch.equal(before[name], after[name])
    }
    assert len(greatest) == 3
    by = {line.partition(": by up to ")[0]: line for line in refused.value.details}
    assert set(by) == set(greatest)
    for name, distance in greatest.items():
        assert by[name].endswith(f": by up to {distance:.3g}")
    message = str(refused.value)
    assert f"3 of {NUM_MIDDLE_TENSORS} tensors differ, " in message
    assert message.endswith(f"by up to {max(greatest.values()):.3g}")


def test_a_device_bundle_knows_which_differ_but_not_how_far(
    base: Path, bundles: Path, tmp_path: Path
) -> None:
    tuned = fine_tune(base, tmp_path / "tuned", nudged("layers.1.mlp.up"))
    with pytest.raises(OtherMiddleError, match="only the cloud's bundle can tell") as refused:
        _ends(tuned, tmp_path / "out", bundles / "device")
    assert refused.value.details == ("model.layers.1.mlp.up_proj.weight",)


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({"rms_norm_eps": 1e-3}, {}, r"rms_norm_eps is 9.99\d+e-07 there and 0.001\d* here"),
        ({}, {"num_input": 2}, r"layers \[1, 3\), asked for are \[2, 3\)"),
        ({}, {"num_output": 2}, r"layers \[1, 3\), asked for are \[1, 2\)"),
    ],
)
def test_what_computes_in_another_way_or_place_is_said_before_anything_is_read(
    base: Path,
    bundles: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    options: dict[str, Any],
    words: str,
) -> None:
    tuned = fine_tune(base, tmp_path / "tuned", nudged("nothing"), settings)
    with pytest.raises(OtherMiddleError, match=words):
        _ends(tuned, tmp_path / "out", bundles, **options)


def test_a_fine_tune_that_was_saved_wider_has_the_same_middle_unless_it_says_more(
    base: Path, tmp_path: Path
) -> None:
    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    def widened(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.float() for name, tensor in tensors.items()})
        tensors["lm_head.weight"] += 1e-5

    half = fine_tune(base, tmp_path / "half", narrow, {"dtype": "bfloat16"})
    bundles = split(half, tmp_path / "bundles", 1, 1).out
    wide = fine_tune(half, tmp_path / "wide", widened, {"dtype": "float32"})
    device = _ends(wide, tmp_path / "ends", bundles).device
    assert device.tensors["lm_head.weight"].dtype == "F32", "ends keep what they have"
    assert device.tensors["model.layers.1.mlp.up_proj.weight"].dtype == "BF16"
    load_bundle(tmp_path / "ends", "device", verify=True)
    # Rounded to 16 bits both are one; the fine-tune itself says more.
    finer = fine_tune(wide, tmp_path / "finer", nudged("layers.1.mlp.up", by=1e-4))
    with pytest.raises(OtherMiddleError, match=f"1 of {NUM_MIDDLE_TENSORS} tensors differ"):
        _ends(finer, tmp_path / "never", bundles)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"rotation_seed": 0}])
def test_ends_are_cast_and_rotated_as_the_middle_was(
    base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    bundles = split(base, tmp_path / "bundles", 1, 1, **options).out
    tuned = fine_tune(base, tmp_path / "tuned", nudged("embed_tokens"))
    device = _ends(tuned, tmp_path / "ends", bundles).device
    whole = split(tuned, tmp_path / "whole", 1, 1, **options).device
    assert device.fingerprint == whole.fingerprint
    assert device.wire_rotation == whole.wire_rotation


def test_a_middle_that_is_not_there_is_told(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no device bundle at"):
        _ends(base, tmp_path / "never", tmp_path / "nothing")


def test_the_command_says_what_is_the_same_or_lists_what_is_not(
    base: Path, bundles: Path, tmp_path: Path
) -> None:
    same = fine_tune(base, tmp_path / "same", nudged("embed_tokens"))
    other = fine_tune(base, tmp_path / "other", nudged("layers.2."))
    arguments = ["--middle-of", str(bundles), "--onnx-weights", "none"]
    runner = CliRunner()
    came = runner.invoke(split_command, [str(same), "--out", str(tmp_path / "a"), *arguments])
    assert came.exit_code == 0, came.output
    assert f"its 2 middle layers are those of {bundles / 'cloud'}, all 18 tensors" in came.output
    assert "hat device" in came.output
    assert "hat cloud" not in came.output
    refused = runner.invoke(split_command, [str(other), "--out", str(tmp_path / "b"), *arguments])
    assert refused.exit_code != 0
    assert refused.output.count("differs: model.layers.2.") == 9
