"""Floats of 8 bits with a scale per block, row or tensor, as DeepSeek, Qwen3 and AutoFP8 have them.

Source: DeepSeek-V3's `weight_dequant`; a block is `weight_block_size` rows and columns, and the
last of a row or column may be smaller. transformers divides a matrix by the number of scales
instead, and refuses, or shifts, where the last block is smaller.
"""

from collections.abc import Mapping
from typing import Any

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.quantised.held import FLOATS, Held
from submodels.checkpoint.quantised.scaled import Grid, PlainCodes, ScaledMatrix
from submodels.checkpoint.quantised.settings import expect, refuse_unknown
from submodels.errors import CheckpointError, UnsupportedModelError

E4M3 = ("F8_E4M3",)
_KNOWN = frozenset(
    {
        *("quant_method", "activation_scheme", "weight_block_size", "fmt", "scale_fmt"),
        *("expert_dtype", "modules_to_not_convert", "ignored_layers", "kv_cache_scheme"),
        *("dequantize", "modules_to_convert"),
    }
)
_SCALES = ("_scale_inv", "_scale")
"""Both are multiplied by, whatever they are called."""
OF_ACTIVATIONS = (
    *(".input_scale", ".activation_scale", ".output_scale", ".input_zero_point"),
    *(".k_scale", ".v_scale", ".kv_scale", ".q_scale"),
)
"""What says how activations and cached keys are rounded, which happens nowhere here."""


def take_fp8(held: Held, settings: Mapping[str, Any], target: str | None) -> None:
    """Take the matrices of 8 bits and their scales.

    Raises:
        UnsupportedModelError: settings that are refused by name.
        CheckpointError: scales that are missing or do not fit.
    """
    method = "quant_method 'fp8'"
    refuse_unknown(settings, _KNOWN, method)
    expect(settings, "activation_scheme", method, "dynamic", "static")
    expect(settings, "fmt", method, "e4m3", "float8_e4m3fn")
    expect(settings, "scale_fmt", method, "float", "ue8m0")
    expect(settings, "expert_dtype", method, "fp8")
    block = _block(settings, method)
    for name in held.ending(".weight"):
        if held.tensors[f"{name}.weight"].dtype == "F8_E4M3":
            weight = held.take_matrix(f"{name}.weight", E4M3)
            scale = _scale(held, f"{name}.weight")
            numbers = ScaledMatrix(PlainCodes(weight), _grid(held, weight, scale, block))
            held.put(f"{name}.weight", numbers, (target or "BF16",))
    held.drop(*OF_ACTIVATIONS)


def _block(settings: Mapping[str, Any], method: str) -> tuple[int, int] | None:
    """Absent, it is what transformers takes; null: there is one scale for a tensor or row."""
    block = settings.get("weight_block_size", [128, 128])
    if block is None:
        return None
    is_pair = isinstance(block, list | tuple) and len(block) == 2
    if not is_pair or not all(type(size) is int and size > 0 for size in block):
        raise UnsupportedModelError(
            f"{method}: weight_block_size: expected two whole numbers, got {block!r:.60}"
        )
    return block[0], block[1]


def _scale(held: Held, name: str) -> SourceTensor:
    found = [suffix for suffix in _SCALES if name + suffix in held.tensors]
    if len(found) > 1:
        raise CheckpointError(f"{held.path} holds two scales of {name}")
    return held.take(name + (found[0] if found else _SCALES[0]), FLOATS)


def _grid(
    held: Held, weight: SourceTensor, scale: SourceTensor, block: tuple[int, int] | None
) -> Grid:
    rows, columns = weight.shape
    if scale.shape in ((), (1,), (1, 1)):
        # One block may hold a whole matrix, which comes to the same.
        return Grid(scale, (1, 1), (rows, columns))
    if block is not None:
        grid = (-(-rows // block[0]), -(-columns // block[1]))
        if scale.shape == grid:
            return Grid(scale, grid, block)
    if scale.shape in ((rows,), (rows, 1)):
        return Grid(scale, (rows, 1), (1, columns))
    expected = f"(), ({rows}, 1)" + ("" if block is None else f" or {grid}")
    raise CheckpointError(
        f"{held.path}: {scale.name}: expected shape {expected}, got {scale.shape}"
    )
