"""Tiny checkpoints as quantising tools store them, and what is to be read of them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.quantised_packing import (
    Pack,
    awq,
    compressed_bytes,
    compressed_words,
    eight_bits,
    four_bits,
    fp8,
    gptq,
    mxfp4,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to store matrices: what config.json says of it, and how a matrix is packed."""

    settings: Mapping[str, Any]
    pack: Pack
    dtype: str = "bfloat16"
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What is stored beside each matrix, and says nothing of it."""


def _compressed(format_name: str, **weights: Any) -> dict[str, Any]:
    activations = None
    if format_name != "pack-quantized":
        activations = {"num_bits": 8, "type": weights["type"], "strategy": "token", "dynamic": True}
    return {
        "quant_method": "compressed-tensors",
        "format": format_name,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"dynamic": False, "observer": "minmax", **weights},
                "input_activations": activations,
                "output_activations": None,
            }
        },
    }


_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
_GPTQ = {"quant_method": "gptq", "group_size": 32, "sym": False, "damp_percent": 0.01}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
_BNB = {"quant_method": "bitsandbytes", "bnb_4bit_compute_dtype": "bfloat16"}
_FLOAT = {"num_bits": 8, "type": "float", "symmetric": True}
_INT = {"num_bits": 8, "type": "int"}
_INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "fp8, blocks": Kind({**_FP8, "weight_block_size": [32, 32]}, fp8((32, 32))),
        "fp8, blocks that leave rests": Kind(
            {**_FP8, "weight_block_size": [40, 48]}, fp8((40, 48))
        ),
        "fp8, one scale": Kind(
            {**_FP8, "activation_scheme": "static", "weight_block_size": None},
            fp8(None),
            extra={".activation_scale": torch.tensor(0.5)},
        ),
        "fp8, AutoFP8": Kind(
            {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
            fp8(None, "_scale"),
            extra={".input_scale": torch.tensor(0.5)},
        ),
        "awq": Kind(_AWQ, awq, "float16"),
        "gptq": Kind({**_GPTQ, "bits": 4, "desc_act": False}, gptq(4, 1), "float16"),
        "gptq, symmetric": Kind(
            {**_GPTQ, "bits": 4, "desc_act": False, "sym": True},
            gptq(4, 1, symmetric=True),
            "float16",
        ),
        "gptq, in order of activations": Kind(
            {**_GPTQ, "bits": 4, "desc_act": True, "checkpoint_format": "gptq"},
            gptq(4, 1, is_ordered=True),
            "float16",
        ),
        "gptq v2, 8 bits": Kind(
            {**_GPTQ, "bits": 8, "method": "gptq", "checkpoint_format": "gptq_v2"},
            gptq(8, 2),
            "float16",
        ),
        "gptq, 8 bits, one group": Kind(
            {**_GPTQ, "bits": 8, "group_size": -1}, gptq(8, 1, group=-1), "float16"
        ),
        "gptq v2, 2 bits": Kind({**_GPTQ, "bits": 2, "format": "gptq_v2"}, gptq(2, 2), "float16"),
        "compressed-tensors, int4": Kind(
            _compressed("pack-quantized", **_INT4, symmetric=True),
            compressed_words(4, 32, symmetric=True),
        ),
        "compressed-tensors, int4 with zero points": Kind(
            _compressed("pack-quantized", **_INT4, symmetric=False),
            compressed_words(4, 32, symmetric=False),
        ),
        "compressed-tensors, int4 in order of activations": Kind(
            _compressed("pack-quantized", **_INT4, symmetric=False, actorder="group"),
            compressed_words(4, 32, symmetric=False, is_ordered=True),
        ),
        "compressed-tensors, packed int8": Kind(
            _compressed("pack-quantized", **_INT, strategy="channel", symmetric=False),
            compressed_words(8, -1, symmetric=False),
        ),
        "compressed-tensors, int8": Kind(
            _compressed("int-quantized", **_INT, strategy="channel", symmetric=True),
            compressed_bytes(symmetric=True),
        ),
        "compressed-tensors, int8 with zero points": Kind(
            _compressed("int-quantized", **_INT, strategy="channel", symmetric=False),
            compressed_bytes(symmetric=False),
        ),
        "compressed-tensors, fp8 by row": Kind(
            _compressed("float-quantized", **_FLOAT, strategy="channel"),
            fp8((1, 0), "_scale", torch.bfloat16),
        ),
        "compressed-tensors, fp8 by tensor": Kind(
            _compressed("float-quantized", **_FLOAT, strategy="tensor"),
            fp8(None, "_scale", torch.bfloat16),
            extra={".input_scale": torch.tensor(0.5)},
        ),
        "compressed-tensors, fp8 by block": Kind(
            _compressed("float-quantized", **_FLOAT, strategy="block", block_structure=[32, 32]),
            fp8((32, 32), "_scale", torch.bfloat16),
        ),
        "bitsandbytes nf4, nested": Kind(
            {**_BNB, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            four_bits("nf4", 64, is_nested=True),
        ),
        "bitsandbytes fp4": Kind(
            {**_BNB, "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
            four_bits("fp4", 64, is_nested=False),
        ),
        "bitsandbytes int8": Kind({**_BNB, "load_in_8bit": True}, eight_bits),
    }
)
"""What matrices of layers may be stored as, by a name for test reports."""
MXFP4 = Kind({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, mxfp4)


def quantise(model: Path, kind: Kind, packed: Path, plain: Path) -> None:
    """A checkpoint as a tool stores it, and one that holds the same numbers as they are read.

    `model` is a checkpoint in one file, of `kind.dtype`.
    """
    tensors = load_file(model / "model.safetensors")
    stored, numbers = dict(tensors), dict(tensors)
    for name, weight in tensors.items():
        if _is_quantised(name, kind):
            del stored[name]
            module = name.removesuffix(".weight")
            parts, read = kind.pack(weight.float())
            for suffix, part in {**parts, **kind.extra}.items():
                stored[module + suffix] = part.clone()
            numbers[name] = read.to(getattr(torch, kind.dtype))
    for folder, held in ((packed, stored), (plain, numbers)):
        shutil.copytree(model, folder)
        save_file(held, folder / "model.safetensors", {"format": "pt"})
    path = packed / "config.json"
    told = json.loads(path.read_text()) | {"quantization_config": dict(kind.settings)}
    path.write_text(json.dumps(told))


def _is_quantised(name: str, kind: Kind) -> bool:
    if kind.pack is mxfp4:
        return name.endswith(("experts.gate_up_proj", "experts.down_proj"))
    return ".layers." in name and name.endswith("_proj.weight")
