"""bitsandbytes: 4 bits by a table with a scale per block, or 8 bits with one per row.

Source: bitsandbytes' `QuantState.from_dict`, `dequantize_4bit` and `int8_vectorwise_dequant`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.quantised.held import Held
from submodels.checkpoint.quantised.settings import refuse_unknown
from submodels.checkpoint.quantised.tensors import (
    STEP_NUMBERS,
    rounded_by,
    rows_per_step,
)
from submodels.checkpoint.reading import byte_steps, row_steps, whole
from submodels.errors import CheckpointError, UnsupportedModelError
from submodels.tensors.number_format import SAFETENSORS_NAMES

_METHOD = "quant_method 'bitsandbytes'"
_KNOWN = frozenset(
    {
        *("quant_method", "load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"),
        *("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "bnb_4bit_quant_type"),
        *("bnb_4bit_use_double_quant", "llm_int8_enable_fp32_cpu_offload", "llm_int8_threshold"),
        "llm_int8_skip_modules",
    }
)
_STATE = ".quant_state.bitsandbytes__"
_KINDS = ("nf4", "fp4")
_FLOAT32 = ("F32",)
# bitsandbytes' 1 / 127, to its last digit.
_PER_STEP = np.float32(7.874015718698502e-3)


@dataclass(frozen=True, slots=True)
class TableBlocks:
    """`table[code] * scale` of 4 bits, by blocks of neighbours in order of rows, a `Numbers`."""

    shape: tuple[int, ...]
    codes: SourceTensor
    table: SourceTensor
    block: int
    scales: "Scales"

    def steps(self) -> Iterator[NDArray[np.float32]]:
        """See `Numbers.steps`; of two numbers in a byte the first has the higher bits."""
        table, scales = whole(self.table), self.scales.numbers()
        left = math.prod(self.shape)
        block = 0
        for held in byte_steps(self.codes, STEP_NUMBERS // 2):
            codes = np.stack([held >> 4, held & 0x0F], axis=-1).reshape(-1)[:left]
            left -= len(codes)
            num_blocks = -(-len(codes) // self.block)
            of_each = np.repeat(scales[block : block + num_blocks], self.block)[: len(codes)]
            block += num_blocks
            yield table[codes] * of_each


@dataclass(frozen=True, slots=True)
class Scales:
    """The scale of each block, which may be a table's number times a scale, plus an offset."""

    codes: SourceTensor
    table: SourceTensor | None = None
    scales: SourceTensor | None = None
    block: int = 1
    offset: float = 0.0

    def numbers(self) -> NDArray[np.float32]:
        """All of them."""
        held: NDArray[Any] = whole(self.codes)
        if self.table is None or self.scales is None:
            return held
        of_each = np.repeat(whole(self.scales), self.block)[: len(held)]
        numbers: NDArray[np.float32] = whole(self.table)[held] * of_each
        return numbers + np.float32(self.offset)


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """Integers of 8 bits whose largest, in each row, is `scales`, a `Numbers`."""

    codes: SourceTensor
    scales: SourceTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the file."""
        return self.codes.shape

    def steps(self) -> Iterator[NDArray[np.float32]]:
        """See `Numbers.steps`."""
        scales, first = whole(self.scales), 0
        for codes in row_steps(self.codes, rows_per_step(self.shape[1])):
            of_each = scales[first : first + len(codes), None]
            first += len(codes)
            yield codes.astype(np.float32) * of_each * _PER_STEP


def take_bitsandbytes(held: Held, settings: Mapping[str, Any], target: str | None) -> None:
    """Take what bitsandbytes has made, of 4 or of 8 bits.

    Raises:
        UnsupportedModelError: settings that are refused by name.
        CheckpointError: tensors that are missing or do not fit.
    """
    refuse_unknown(settings, _KNOWN, _METHOD)
    bits = [
        n for n in (4, 8) if settings.get(f"load_in_{n}bit") or settings.get(f"_load_in_{n}bit")
    ]
    if len(bits) != 1:
        raise UnsupportedModelError(f"{_METHOD}: expected load_in_4bit or load_in_8bit")
    if bits == [8]:
        for name in held.ending(".SCB"):
            codes = held.take_matrix(f"{name}.weight", ("I8",))
            scales = held.take(f"{name}.SCB", _FLOAT32, codes.shape[:1])
            layout = held.take_if_there(f"{name}.weight_format", ("U8",), (), (1,))
            if layout is not None and whole(layout).any():
                raise UnsupportedModelError(f"{held.path}: {layout.name}: expected rows in order")
            held.put(f"{name}.weight", ScaledRows(codes, scales), (target or "BF16",))
        return
    for kind in _KINDS:
        for name in held.ending(_STATE + kind):
            _take_4bit(held, name, kind, target)


def _take_4bit(held: Held, name: str, kind: str, target: str | None) -> None:
    state = _state(held, name, kind)
    shape, block = _shape(held, name, state), _block(held, name, state, "blocksize")
    num_numbers = math.prod(shape)
    # The bytes may be called anything: `bnb_4bit_quant_storage`.
    codes = held.take(name, ("U8", "I8", "F16", "BF16", "F32"))
    if codes.num_bytes != -(-num_numbers // 2):
        raise CheckpointError(
            f"{held.path}: {name}: expected {-(-num_numbers // 2)} bytes for {shape}, got "
            f"{codes.num_bytes}"
        )
    table = held.take(f"{name}.quant_map", _FLOAT32, (16,))
    scales = _scales(held, name, state, -(-num_numbers // block))
    through = SAFETENSORS_NAMES[state["dtype"]]
    numbers = TableBlocks(shape, codes, table, block, scales)
    held.put(name, numbers, rounded_by(through, target or through))


def _scales(held: Held, name: str, state: Mapping[str, Any], num_blocks: int) -> Scales:
    if "nested_blocksize" not in state:
        return Scales(held.take(f"{name}.absmax", _FLOAT32, (num_blocks,)))
    block = _block(held, name, state, "nested_blocksize")
    offset = state.get("nested_offset")
    if not isinstance(offset, float) or state.get("nested_dtype", "float32") != "float32":
        raise UnsupportedModelError(f"{held.path}: {name}: expected nested scales in float32")
    return Scales(
        held.take(f"{name}.absmax", ("U8",), (num_blocks,)),
        held.take(f"{name}.nested_quant_map", _FLOAT32, (256,)),
        held.take(f"{name}.nested_absmax", _FLOAT32, (-(-num_blocks // block),)),
        block,
        offset,
    )


def _state(held: Held, name: str, kind: str) -> Mapping[str, Any]:
    """What bitsandbytes keeps as JSON in a tensor of bytes."""
    source = held.take(f"{name}{_STATE}{kind}", ("U8",))
    try:
        state: Mapping[str, Any] = json.loads(whole(source).tobytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{held.path}: {source.name} is not valid JSON: {error}") from error
    is_known = isinstance(state, dict) and str(state.get("dtype")) in SAFETENSORS_NAMES
    if not is_known or state.get("quant_type", kind) != kind:
        raise CheckpointError(
            f"{held.path}: {source.name}: expected a dtype and the quant_type {kind!r}, got "
            f"{state!r:.80}"
        )
    return state


def _shape(held: Held, name: str, state: Mapping[str, Any]) -> tuple[int, ...]:
    shape = state.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise CheckpointError(f"{held.path}: {name}: expected a shape, got {shape!r:.80}")
    return tuple(shape)


def _block(held: Held, name: str, state: Mapping[str, Any], key: str) -> int:
    size = state.get(key)
    # A step holds whole blocks.
    if type(size) is not int or size < 1 or STEP_NUMBERS % size:
        raise CheckpointError(f"{held.path}: {name}: {key} {size!r:.20} is not supported")
    return size
