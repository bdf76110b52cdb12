"""Quantised tensors read a part at a time: the same numbers, in less memory than a tensor takes."""

import json
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from submodels.checkpoint.checkpoint import ShardTensor
from submodels.checkpoint.opening import opened_checkpoint
from submodels.checkpoint.quantised import bits_and_bytes, columns
from submodels.checkpoint.quantised import tensors as quantised_tensors
from submodels.random_models import RandomModel, make_random_model
from tests.support.family_models import FAMILY_MODELS
from tests.support.quantised_models import KINDS, MXFP4, quantise

UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize("name", [*KINDS, "mxfp4"])
def test_numbers_are_the_same_in_pieces_and_steps_of_any_size(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny model is read in one step else; a piece ends inside a row, a step inside a matrix."""
    kind = KINDS.get(name, MXFP4)
    model = FAMILY_MODELS["gpt-oss"] if kind is MXFP4 else RandomModel(num_layers=1)
    make_random_model(replace(model, dtype=kind.dtype), tmp_path / "model")  # type: ignore[arg-type]
    quantise(tmp_path / "model", kind, tmp_path / "packed", tmp_path / "plain")
    in_pieces = ShardTensor.pieces
    monkeypatch.setattr(ShardTensor, "pieces", lambda self: in_pieces(self, 1009))
    for module in (quantised_tensors, columns, bits_and_bytes):
        monkeypatch.setattr(module, "STEP_NUMBERS", 1 << 10)
    expected = load_file(tmp_path / "plain" / "model.safetensors")
    with opened_checkpoint(tmp_path / "packed") as checkpoint:
        assert checkpoint.tensors.keys() == expected.keys()
        for tensor, source in checkpoint.tensors.items():
            pieces = list(source.pieces())
            # No test of steps where there is one.
            assert len(pieces) > 1 or source.num_bytes < 2048
            assert b"".join(pieces) == expected[tensor].view(torch.uint8).numpy().tobytes(), tensor


ROWS, COLUMNS = 2048, 4096
LARGE: Mapping[str, Mapping[str, tuple[tuple[int, ...], torch.dtype]]] = {
    "fp8, blocks": {
        ".weight": ((ROWS, COLUMNS), torch.float8_e4m3fn),
        ".weight_scale_inv": ((ROWS // 32, COLUMNS // 32), torch.float32),
    },
    "awq": {
        ".qweight": ((COLUMNS, ROWS // 8), torch.int32),
        ".qzeros": ((COLUMNS // 32, ROWS // 8), torch.int32),
        ".scales": ((COLUMNS // 32, ROWS), torch.float16),
    },
    "gptq v2, 8 bits": {
        ".qweight": ((COLUMNS // 4, ROWS), torch.int32),
        ".qzeros": ((COLUMNS // 32, ROWS // 4), torch.int32),
        ".scales": ((COLUMNS // 32, ROWS), torch.float16),
        ".g_idx": ((COLUMNS,), torch.int32),
    },
    "compressed-tensors, int4": {
        ".weight_packed": ((ROWS, COLUMNS // 8), torch.int32),
        ".weight_scale": ((ROWS, COLUMNS // 32), torch.bfloat16),
    },
    "bitsandbytes fp4": {
        ".weight": ((ROWS * COLUMNS // 2, 1), torch.uint8),
        ".weight.absmax": ((ROWS * COLUMNS // 64,), torch.float32),
        ".weight.quant_map": ((16,), torch.float32),
    },
    "bitsandbytes int8": {
        ".weight": ((ROWS, COLUMNS), torch.int8),
        ".SCB": ((ROWS,), torch.float32),
    },
}


@pytest.mark.parametrize("name", LARGE)
def test_reading_takes_less_memory_than_the_tensor(name: str, tmp_path: Path) -> None:
    stored = {f"{UP}{suffix}": _noise(*told) for suffix, told in LARGE[name].items()}
    if name.startswith("compressed"):
        stored[f"{UP}.weight_shape"] = torch.tensor([ROWS, COLUMNS])
    if name.endswith("fp4"):
        told = {"blocksize": 64, "dtype": "bfloat16", "shape": [ROWS, COLUMNS]}
        text = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
        stored[f"{UP}.weight.quant_state.bitsandbytes__fp4"] = text
    save_file(stored, tmp_path / "model.safetensors")
    config = {"model_type": "llama", "dtype": "bfloat16"}
    config["quantization_config"] = dict(KINDS[name].settings)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert _peak_bytes(tmp_path, (ROWS, COLUMNS)) < 2 * ROWS * COLUMNS


def test_stacked_experts_take_about_what_one_of_them_does(tmp_path: Path) -> None:
    experts, blocks = 16, COLUMNS // 32 // 16
    name = "model.layers.0.mlp.experts.gate_up_proj"
    stored = {
        f"{name}_blocks": _noise((experts, ROWS, blocks, 16), torch.uint8),
        f"{name}_scales": _noise((experts, ROWS, blocks), torch.uint8),
    }
    save_file(stored, tmp_path / "model.safetensors")
    config = {"model_type": "gpt_oss", "quantization_config": dict(MXFP4.settings)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert _peak_bytes(tmp_path, (experts, blocks * 32, ROWS)) < 2 * ROWS * COLUMNS


def _peak_bytes(folder: Path, shape: tuple[int, ...]) -> int:
    """How much memory reading the only tensor of a checkpoint takes at once."""
    with opened_checkpoint(folder) as checkpoint:
        [tensor] = checkpoint.tensors.values()
        assert tensor.shape == shape
        tracemalloc.start()
        try:
            num_bytes = sum(len(piece) for piece in tensor.pieces())
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert num_bytes == tensor.num_bytes == 2 * ROWS * COLUMNS
    return peak_bytes


def _noise(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator).mul(0.1).to(dtype)
    if len(shape) == 1:
        return (torch.arange(shape[0]) // 32).to(dtype)
    end = 127 if dtype.itemsize == 1 else (1 << 31) - 1
    return torch.randint(0, end, shape, generator=generator, dtype=torch.int64).to(dtype)
