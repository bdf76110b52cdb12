"""Quantised checkpoints: what is read beside whole models, refused by name, or damaged."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from submodels.errors import CheckpointError, SplitError, UnsupportedModelError
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from tests.support.quantised_models import KINDS, Kind, quantise
from tests.support.quantised_packing import gptq
from tests.support.split_models import split

UP = "model.layers.0.mlp.up_proj"
Change = Callable[[dict[str, Tensor]], None]


def _made(kind: Kind, folder: Path, layers: int = 1) -> Path:
    model = RandomModel(num_layers=layers + 1)
    make_random_model(replace(model, dtype=kind.dtype), folder / "model")  # type: ignore[arg-type]
    quantise(folder / "model", kind, folder / "packed", folder / "plain")
    return folder / "packed"


def _told(folder: Path, settings: Mapping[str, Any] | None) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = settings
    path.write_text(json.dumps(config))


def _with(name: str, **settings: Any) -> dict[str, Any]:
    return {**KINDS[name].settings, **settings}


def _weights(**settings: Any) -> dict[str, Any]:
    """compressed-tensors' settings with others in its only group."""
    told = json.loads(json.dumps(dict(KINDS["compressed-tensors, int4"].settings)))
    told["config_groups"]["group_0"]["weights"] |= settings
    return told


REFUSED = {
    "method": (
        "awq",
        {"quant_method": "hqq"},
        "quant_method 'hqq' is not supported; supported: fp",
    ),
    "no method": ("awq", {"bits": 8}, "expected a quantization_config with a quant_method"),
    "awq bits": ("awq", _with("awq", bits=8), "'awq': bits 8 is not supported; supported: 4"),
    "awq layout": ("awq", _with("awq", version="gemv"), "version 'gemv' is not supported"),
    "awq zero": ("awq", _with("awq", zero_point=False), "zero_point False is not supported"),
    "awq later": ("awq", _with("awq", rotation="hadamard"), "'awq': rotation in quantization_conf"),
    "gptq bits": ("gptq", _with("gptq", bits=3), "bits 3 is not supported; supported: 4, 8, 2"),
    "gptq layout": (
        "gptq",
        _with("gptq", checkpoint_format="marlin"),
        "checkpoint_format 'marlin'",
    ),
    "gptq planes": ("gptq", _with("gptq", format="gptq_p"), "checkpoint_format 'gptq_p' is not"),
    "gptq rotated": ("gptq", _with("gptq", rotation="hadamard"), "'gptq': rotation in"),
    "gptq modules": (
        "gptq",
        _with("gptq", dynamic={"+:.*": {"rotation": "hadamard"}}),
        r"'gptq': rotation in dynamic '\+:\.\*' is not known",
    ),
    "gptq bits of one": (
        "gptq",
        _with("gptq", dynamic={".*up_proj": {"bits": 3}}),
        "bits 3 is not supported; supported: 4, 8, 2",
    ),
    "gptq pattern": ("gptq", _with("gptq", dynamic={"-:(": {}}), r"'-:\(' is no pattern"),
    "gptq list": ("gptq", _with("gptq", dynamic=["-:.*"]), "expected dynamic by patterns"),
    "gptq words": ("gptq", _with("gptq", pack_dtype="int64"), "pack_dtype 'int64'"),
    "gptq group": ("gptq", _with("gptq", group_size=0), "group_size: expected a whole number"),
    "fp8 scales": ("fp8, blocks", _with("fp8, blocks", scale_fmt="int"), "scale_fmt 'int'"),
    "fp8 form": ("fp8, blocks", _with("fp8, blocks", fmt="e5m2"), "fmt 'e5m2' is not supported"),
    "fp8 block": (
        "fp8, blocks",
        _with("fp8, blocks", weight_block_size=[0, 4]),
        "two whole numbers",
    ),
    "bnb both": (
        "bitsandbytes int8",
        _with("bitsandbytes fp4", load_in_8bit=True),
        "load_in_4bit or",
    ),
    "bnb later": ("bitsandbytes fp4", _with("bitsandbytes fp4", new=1), "bitsandbytes': new in"),
    "format": (
        "compressed-tensors, int4",
        _with("compressed-tensors, int4", format="nvfp4-pack-quantized"),
        "format 'nvfp4-pack-quantized' is not supported",
    ),
    "sparse": (
        "compressed-tensors, int4",
        _with("compressed-tensors, int4", sparsity_config={"format": "sparse-24-bitmask"}),
        "format 'sparse-24-bitmask' is not supported",
    ),
    "rotated": (
        "compressed-tensors, int4",
        _with("compressed-tensors, int4", transform_config={"config_groups": {"a": 1}}),
        "transform_config in quantization_config is not known",
    ),
    "packed bits": (
        "compressed-tensors, int4",
        _weights(num_bits=3),
        "num_bits 3 is not supported",
    ),
    "packed floats": (
        "compressed-tensors, int4",
        _weights(type="float"),
        "4 bits of float as pack",
    ),
    "strategy": ("compressed-tensors, int4", _weights(strategy="tensor_group"), "'tensor_group'"),
    "dynamic": ("compressed-tensors, int4", _weights(dynamic="local"), "dynamic in"),
}


@pytest.mark.parametrize(("name", "settings", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_known_is_refused_by_name(
    name: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = _made(KINDS[name], tmp_path)
    _told(folder, settings)
    with pytest.raises(UnsupportedModelError, match=words) as refused:
        split(folder, tmp_path / "out", 1)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def _without(suffix: str) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[UP + suffix]

    return change


def _as(suffix: str, made: Callable[[Tensor], Tensor]) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[UP + suffix] = made(tensors[UP + suffix]).contiguous()

    return change


def _twice(tensors: dict[str, Tensor]) -> None:
    tensors[f"{UP}.weight"] = torch.zeros(96, 64)


DAMAGED = {
    "no scale": ("fp8, blocks", _without(".weight_scale_inv"), r"lacks .*up_proj.weight_scale_inv"),
    "no zeros": ("awq", _without(".qzeros"), r"lacks .*up_proj.qzeros"),
    "no table": ("bitsandbytes fp4", _without(".weight.quant_map"), "lacks .*weight.quant_map"),
    "scales": (
        "gptq",
        _as(".scales", lambda t: t[:1]),
        r"scales: expected shape \(2, 96\), got \(1",
    ),
    "zeros": ("awq", _as(".qzeros", lambda t: t[:, :4]), r"qzeros: expected shape \(2, 12\)"),
    "words": ("awq", _as(".qweight", lambda t: t.long()), "qweight: expected I32, got I64"),
    "blocks": (
        "fp8, blocks",
        _as(".weight_scale_inv", lambda t: t[:, :1]),
        r"expected shape \(\), \(96, 1\) or \(3, 2\), got \(3, 1\)",
    ),
    "order": ("gptq", _as(".g_idx", lambda t: t + 1), "expected groups from 0 to 1, got 1 to 2"),
    "no order": (
        "gptq, in order of activations",
        _without(".g_idx"),
        r"lacks .*up_proj.g_idx: what lies beside it cannot be read",
    ),
    "no order of columns": (
        "compressed-tensors, int4 in order of activations",
        _without(".weight_g_idx"),
        r"lacks .*up_proj.weight_g_idx",
    ),
    "groups": (
        "compressed-tensors, int4 in order of activations",
        _as(".weight_g_idx", lambda t: t * 0),
        "expected 2 groups of 32 columns each",
    ),
    "shape": (
        "compressed-tensors, int4",
        _as(".weight_shape", lambda t: t * 2),
        r"expected 4 bits for each of \(192, 128\), got \(96, 8\) words",
    ),
    "bytes": ("bitsandbytes fp4", _as(".weight", lambda t: t[:-1]), "expected 3072 bytes for"),
    "state": (
        "bitsandbytes fp4",
        _as(".weight.quant_state.bitsandbytes__fp4", lambda t: t[:-1]),
        "bitsandbytes__fp4 is not valid JSON",
    ),
    "infinite": ("awq", _as(".scales", lambda t: t * torch.inf), "holds what is no number"),
    "twice": ("awq", _twice, "holds model.layers.0.mlp.up_proj.weight twice, once quantised"),
}


@pytest.mark.parametrize(("name", "change", "words"), DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_damaged_is_named(name: str, change: Change, words: str, tmp_path: Path) -> None:
    folder = _made(KINDS[name], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=words) as refused:
        split(folder, tmp_path / "out", 1)
    assert "\n" not in str(refused.value)


def test_tensors_of_another_method_are_not_left_out(tmp_path: Path) -> None:
    """Neither where config.json names one method only, nor where it names none."""
    folder = _made(KINDS["awq"], tmp_path)
    _told(folder, KINDS["fp8, blocks"].settings)
    with pytest.raises(CheckpointError, match="quant_method 'fp8', and no tensor is quantised so"):
        split(folder, tmp_path / "out", 1)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{UP}.weight_scale_inv"] = torch.ones(3, 2)
    save_file(tensors, folder / "model.safetensors")
    _told(folder, KINDS["awq"].settings)
    with pytest.raises(CheckpointError, match=r"holds unknown tensors.*up_proj.weight_scale_inv"):
        split(folder, tmp_path / "out", 1)
    _told(folder, None)
    with pytest.raises(CheckpointError, match="lacks tensors"):
        split(folder, tmp_path / "out", 1)


def test_modules_of_gptq_may_have_settings_of_their_own(tmp_path: Path) -> None:
    """The first pattern that fits counts; what is excepted stays as it was before."""
    four = KINDS["gptq"]
    eight = replace(four, pack=gptq(8, 1, group=64))
    folder, other = _made(four, tmp_path / "a"), _made(eight, tmp_path / "b")
    before = load_file(tmp_path / "a" / "model" / "model.safetensors")
    stored, plain = (
        load_file(tmp_path / "a" / n / "model.safetensors") for n in ("packed", "plain")
    )
    eights, plain_eights = (
        load_file(at / "model.safetensors") for at in (other, other.parent / "plain")
    )
    parts = (("self_attn.", before, before), ("mlp.up_proj", eights, plain_eights))
    for part, as_stored, as_read in parts:
        stored = {name: tensor for name, tensor in stored.items() if part not in name}
        stored |= {name: tensor for name, tensor in as_stored.items() if part in name}
        plain |= {name: tensor for name, tensor in as_read.items() if part in name}
    save_file(stored, folder / "model.safetensors")
    save_file(plain, folder.parent / "plain" / "model.safetensors", {"format": "pt"})
    changed = {"bits": 8, "group_size": 64, "damp_percent": 0.1}
    rules = {r"-:.*self_attn\..*": {}, r"+:model\..*up_proj": changed, ".*": {}}
    _told(folder, {**four.settings, "dynamic": rules})
    came, expected = (
        split(folder.parent / name, tmp_path / name, 1) for name in ("packed", "plain")
    )
    assert came.device.tensors == expected.device.tensors
    assert came.cloud.tensors == expected.cloud.tensors


def test_groups_of_modules_may_be_stored_in_other_ways(tmp_path: Path) -> None:
    """As mixed-precision checkpoints have them: by name, by pattern, by class."""
    four, eight = KINDS["compressed-tensors, int4"], KINDS["compressed-tensors, int8"]
    folder = _made(four, tmp_path / "a")
    other = load_file(_made(eight, tmp_path / "b") / "model.safetensors")
    plain, plain_other = (
        load_file(tmp_path / name / "plain" / "model.safetensors") for name in "ab"
    )
    tensors = load_file(folder / "model.safetensors")
    is_other = ("self_attn.", "layers.1.mlp.down_proj")
    for name in [name for name in tensors if any(part in name for part in is_other)]:
        del tensors[name]
    tensors |= {n: t for n, t in other.items() if any(part in n for part in is_other)}
    plain |= {n: t for n, t in plain_other.items() if any(part in n for part in is_other)}
    save_file(tensors, folder / "model.safetensors")
    save_file(plain, tmp_path / "a" / "plain" / "model.safetensors", {"format": "pt"})
    [first] = four.settings["config_groups"].values()
    [second] = eight.settings["config_groups"].values()
    second = {**second, "targets": ["re:.*self_attn.*", "model.layers.1.mlp.down_proj"]}
    groups = {
        "group_0": {**first, "format": "pack-quantized"},
        "group_1": {**second, "format": "int-quantized"},
    }
    settings = {**four.settings, "format": "mixed-precision", "config_groups": groups}
    _told(folder, settings)
    came, expected = (
        split(tmp_path / "a" / name, tmp_path / f"{name}-out", 1) for name in ("packed", "plain")
    )
    assert came.device.tensors == expected.device.tensors
    groups["group_0"]["targets"] = ["re:.*mlp.*"]
    groups["group_1"]["targets"] = ["re:.*_proj"]
    _told(folder, settings)
    with pytest.raises(UnsupportedModelError, match="belongs to groups that differ"):
        split(folder, tmp_path / "out", 1)
    groups["group_1"]["targets"] = ["re:.*self_attn.q_proj"]
    _told(folder, settings)
    with pytest.raises(UnsupportedModelError, match="belongs to no group"):
        split(folder, tmp_path / "out", 1)


@pytest.mark.parametrize(
    ("name", "file", "settings"),
    [
        ("gptq", "quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False}),
        (
            "awq",
            "quant_config.json",
            {"w_bit": 4, "q_group_size": 32, "zero_point": True, "version": "GEMM"},
        ),
    ],
)
def test_settings_of_older_tools_lie_in_a_file_of_their_own(
    name: str, file: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = _made(KINDS[name], tmp_path)
    _told(folder, None)
    (folder / file).write_text(json.dumps(settings))
    came, expected = split(folder, tmp_path / "1", 1), split(tmp_path / "plain", tmp_path / "2", 1)
    assert came.device.tensors == expected.device.tensors


def test_biases_of_zeros_are_left_out(tmp_path: Path) -> None:
    """AutoGPTQ gave one to every matrix; one that adds something is an unknown tensor."""
    folder = _made(KINDS["gptq"], tmp_path)
    expected = split(folder, tmp_path / "1", 1).device.tensors
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{UP}.bias"] = torch.zeros(96).half()
    save_file(tensors, folder / "model.safetensors")
    again = split(folder, tmp_path / "2", 1)
    assert (again.device.tensors, again.quantised_by) == (expected, "gptq")
    tensors[f"{UP}.bias"][95] = 1.0
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds unknown tensors \(1\): .*up_proj.bias"):
        split(folder, tmp_path / "3", 1)


def test_an_adapter_is_merged_into_the_numbers_that_are_read(tmp_path: Path) -> None:
    folder = _made(KINDS["bitsandbytes nf4, nested"], tmp_path)
    (tmp_path / "adapter").mkdir()
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(told))
    update = {
        f"base_model.model.{UP}.lora_A.weight": torch.randn(2, 64) * 0.1,
        f"base_model.model.{UP}.lora_B.weight": torch.randn(96, 2) * 0.1,
    }
    save_file(update, tmp_path / "adapter" / "adapter_model.safetensors")
    merged = [
        split_checkpoint(
            SplitOptions(str(tmp_path / "adapter"), tmp_path / base.name / "out", 1, base=str(base))
        )
        for base in (folder, tmp_path / "plain")
    ]
    assert merged[0].device.tensors == merged[1].device.tensors
    assert merged[0].device.tensors != split(folder, tmp_path / "alone", 1).device.tensors


def test_a_basis_may_be_rotated(tmp_path: Path) -> None:
    folder = _made(KINDS["compressed-tensors, int4"], tmp_path)
    one = split(folder, tmp_path / "1", 1, rotation_seed=3)
    other = split(tmp_path / "plain", tmp_path / "2", 1, rotation_seed=3)
    assert one.device.tensors == other.device.tensors


def test_a_number_too_large_for_the_format_is_an_error(tmp_path: Path) -> None:
    folder = _made(KINDS["fp8, blocks"], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{UP}.weight_scale_inv"] *= 1e8
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    with pytest.raises(SplitError, match="numbers too large for float16"):
        split(folder, tmp_path / "out", 1)
