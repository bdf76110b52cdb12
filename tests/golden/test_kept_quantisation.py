"""A middle that stays as another tool has quantised it: the same bytes under other names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from cloud_server.config import CloudConfig
from cloud_server.engines.vllm import bundle as vllm_bundle
from cloud_server.engines.vllm.kept import check_kept_on_cpu
from hat.commands.split import split as split_command
from process.errors import StartError
from submodels.bundle.bundle import load_bundle
from submodels.checkpoint.quantised.kept import kept_middle
from submodels.errors import BundleError, UnsupportedModelError
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from submodels.tensors.tensor_layout import Part
from tests.support.family_models import FAMILY_MODELS
from tests.support.other_names import make_other_name
from tests.support.quantised_models import KINDS, MXFP4, Kind, quantise

MODEL = RandomModel(num_layers=4, seed=3)
CHOSEN = ("fp8, blocks", "awq", "gptq, in order of activations", "compressed-tensors, int4")


def _made(kind: Kind, folder: Path, model: RandomModel = MODEL) -> Path:
    make_random_model(model, folder / "model")
    quantise(folder / "model", kind, folder / "packed", folder / "plain")
    return folder / "packed"


def _split(packed: Path, out: Path, **options: Any) -> Any:
    kept = {"keep_quantisation": True, "onnx_weights": (), **options}
    return split_checkpoint(SplitOptions(str(packed), out, 1, 1, **kept))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("name", CHOSEN)
def test_the_middles_tensors_are_the_checkpoints_byte_for_byte(name: str, tmp_path: Path) -> None:
    packed = _made(KINDS[name], tmp_path)
    result = _split(packed, tmp_path / "out")
    stored = load_file(packed / "model.safetensors")
    expected = {
        f"model.layers.{layer - 1}.{key.split('.', 3)[3]}": tensor
        for key, tensor in stored.items()
        for layer in (1, 2)
        if key.startswith(f"model.layers.{layer}.")
    }
    came = load_file(tmp_path / "out" / "cloud" / Part.MIDDLE.value)
    assert came.keys() == expected.keys()
    assert all(_same(came[key], expected[key]) for key in expected)
    config = json.loads((tmp_path / "out" / "cloud" / "config.json").read_text())
    assert config["quantization_config"] == dict(KINDS[name].settings)
    assert result.cloud.kept_quantisation == KINDS[name].settings["quant_method"]
    assert load_bundle(tmp_path / "out", "cloud", verify=True).manifest == result.cloud


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("fp8, one scale", {".weight", ".weight_scale", ".input_scale"}),
        ("fp8, AutoFP8", {".weight", ".weight_scale", ".input_scale"}),
        ("fp8, blocks", {".weight", ".weight_scale_inv"}),
    ],
)
def test_scales_have_the_names_of_vllms_layers(name: str, ends: set[str], tmp_path: Path) -> None:
    """Devstral 2 as it is published has the first: only vLLM's mistral3 reads its names."""
    tensors = kept_middle(_made(KINDS[name], tmp_path), range(1, 2)).tensors
    module = "model.layers.0.mlp.up_proj"
    assert {key.removeprefix(module) for key in tensors if key.startswith(module)} == ends


_FLOATS = {"group_0": {"weights": {"type": "float", "num_bits": 8, "strategy": "tensor"}}}
_FLOATS_BY_ROW = {"group_0": {"weights": {"type": "float", "num_bits": 8, "strategy": "channel"}}}
_INTEGERS = {"group_0": {"weights": {"type": "int", "num_bits": 4}}, "group_1": {}}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"quant_method": "gptq", "bits": 8, "sym": True}, "the bundle has GPTQ of 8 bits; split"),
        (
            {"quant_method": "gptq", "bits": 4, "sym": False},
            "the bundle has GPTQ of 4 bits, not symmetric;",
        ),
        ({"quant_method": "fp8"}, "on a CPU without AMX, which this one is"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 8}}},
            },
            "the bundle has pack-quantized of 8 bits;",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "int-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "symmetric": False}}},
            },
            "the bundle has int-quantized of 8 bits, not symmetric;",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": _FLOATS},
            "on a CPU without AMX, which this one is",
        ),
    ],
)
def test_what_vllm_has_no_kernel_for_on_a_cpu_is_refused(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(StartError, match=complaint):
        check_kept_on_cpu(settings, has_amx=False)


@pytest.mark.parametrize(
    ("settings", "has_amx"),
    [
        ({"quant_method": "gptq", "bits": 4, "sym": True}, False),
        ({"quant_method": "gptq", "bits": 4}, False),
        ({"quant_method": "awq", "bits": 4}, False),
        ({"quant_method": "compressed-tensors", "config_groups": _INTEGERS}, False),
        ({"quant_method": "compressed-tensors", "config_groups": _FLOATS_BY_ROW}, False),
        ({"quant_method": "compressed-tensors", "config_groups": _FLOATS}, True),
        ({"quant_method": "fp8"}, True),
    ],
)
def test_the_rest_is_left_to_vllm(settings: dict[str, Any], has_amx: bool) -> None:
    check_kept_on_cpu(settings, has_amx)


def test_the_device_is_the_one_of_the_dequantised_split(tmp_path: Path) -> None:
    packed = _made(KINDS["awq"], tmp_path)
    kept, plain = (
        _split(packed, tmp_path / str(is_kept), keep_quantisation=is_kept)
        for is_kept in (True, False)
    )
    assert kept.device == plain.device
    assert kept.cloud.fingerprint == plain.cloud.fingerprint
    for name in kept.device.files:
        paths = (tmp_path / str(is_kept) / "device" / name for is_kept in (True, False))
        assert len({path.read_bytes() for path in paths}) == 1
    sizes = [each.cloud.files[Part.MIDDLE.value].num_bytes for each in (kept, plain)]
    assert sizes[0] < sizes[1] / 2


def test_only_vllm_runs_it(tmp_path: Path) -> None:
    _split(_made(KINDS["awq"], tmp_path), tmp_path / "out")
    bundle = load_bundle(tmp_path / "out", "cloud")
    with pytest.raises(BundleError, match="as awq has quantised them, which only `hat cloud --eng"):
        bundle.open_tensors(Part.MIDDLE)
    config = CloudConfig(tmp_path / "out", engine="vllm", quantization="fp8")
    with pytest.raises(StartError, match="quantization fp8: the bundle's layers are awq's already"):
        vllm_bundle.load_vllm_engine(bundle, config)


def test_a_damaged_middle_is_noticed(tmp_path: Path) -> None:
    _split(_made(KINDS["awq"], tmp_path), tmp_path / "out")
    middle = tmp_path / "out" / "cloud" / Part.MIDDLE.value
    data = bytearray(middle.read_bytes())
    data[-1] ^= 1
    middle.write_bytes(data)
    with pytest.raises(BundleError, match="is corrupt"):
        load_bundle(tmp_path / "out", "cloud")


def test_modules_that_were_left_out_have_the_bundles_names(tmp_path: Path) -> None:
    packed = _made(KINDS["compressed-tensors, int4"], tmp_path)
    path = packed / "config.json"
    told = json.loads(path.read_text())
    ignored = ["lm_head", "model.layers.0.mlp.gate", "model.layers.2.mlp", "re:.*shared.*"]
    ignored += ["vision_tower.vision_model.encoder.layers.1.self_attn.q_proj"]
    ignored += ["model.vision_tower.encoder.layers.2.self_attn.k_proj"]
    told["quantization_config"]["ignore"] = ignored
    path.write_text(json.dumps(told))
    settings = kept_middle(packed, range(1, 3)).settings
    assert settings["ignore"] == ["lm_head", "model.layers.1.mlp", "re:.*shared.*"]
    told["quantization_config"]["ignore"] = [r"re:model\.layers\.[02]\..*"]
    path.write_text(json.dumps(told))
    with pytest.raises(UnsupportedModelError, match="names layers by a pattern"):
        kept_middle(packed, range(1, 3))


def test_settings_by_pattern_are_kept_where_they_name_no_layer(tmp_path: Path) -> None:
    packed = _made(KINDS["gptq"], tmp_path)
    path = packed / "config.json"
    told = json.loads(path.read_text())
    told["quantization_config"]["dynamic"] = {r"-:.*self_attn\..*": {}}
    path.write_text(json.dumps(told))
    assert kept_middle(packed, range(1, 3)).settings == told["quantization_config"]
    told["quantization_config"]["dynamic"] = {r"+:model\.layers\.2\..*": {"bits": 8}}
    path.write_text(json.dumps(told))
    with pytest.raises(UnsupportedModelError, match="names layers by a pattern"):
        kept_middle(packed, range(1, 3))


def test_a_wrappers_layers_are_found_by_their_names(tmp_path: Path) -> None:
    make_other_name("mistral3", tmp_path / "model")
    kind = KINDS["compressed-tensors, int4"]
    quantise(tmp_path / "model", kind, tmp_path / "packed", tmp_path / "plain")
    tensors = kept_middle(tmp_path / "packed", range(1, 2)).tensors
    assert "model.layers.0.self_attn.q_proj.weight_packed" in tensors
    assert all(name.startswith("model.layers.0.") for name in tensors)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dtype": "float32"}, "does not go with --dtype"),
        ({"rotation_seed": 0}, "does not go with --wire-rotation"),
    ],
)
def test_what_changes_weights_is_refused(
    options: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=complaint):
        _split(_made(KINDS["awq"], tmp_path), tmp_path / "out", **options)


def test_what_cannot_be_kept_is_refused_by_name(tmp_path: Path) -> None:
    make_random_model(MODEL, tmp_path / "plain")
    with pytest.raises(UnsupportedModelError, match=r"fp8, awq, gptq, .* is by nothing"):
        _split(tmp_path / "plain", tmp_path / "out")
    packed = _made(MXFP4, tmp_path / "moe", FAMILY_MODELS["gpt-oss"])
    with pytest.raises(UnsupportedModelError, match="is by mxfp4"):
        _split(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_which_engine_runs_it(tmp_path: Path) -> None:
    packed = _made(KINDS["awq"], tmp_path)
    flags = [str(packed), "--out", str(tmp_path / "out"), "--keep-quantisation"]
    answer = CliRunner().invoke(split_command, [*flags, "--onnx-weights", "none"])
    assert answer.exit_code == 0, answer.output
    assert "dequantised from awq on the device only" in answer.output
    assert "--engine vllm" in answer.output
