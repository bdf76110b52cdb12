"""MXFP4 as gpt-oss is published: floats of 4 bits, 32 of which share a power of two.

Source: transformers' `convert_moe_packed_tensors`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.quantised.held import Held
from submodels.checkpoint.quantised.settings import refuse_unknown
from submodels.checkpoint.quantised.tensors import rows_per_step
from submodels.checkpoint.reading import byte_steps
from submodels.errors import CheckpointError

_KNOWN = frozenset({"quant_method", "modules_to_not_convert", "dequantize"})
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)
_BYTES = ("U8",)
_BLOCK_NUMBERS, _BLOCK_BYTES = 32, 16
_EXPONENT_BIAS, _NO_NUMBER = 127, 255


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """Matrices `[E, K, N]` that are stored as `[E, N, K]` in blocks along K, a `Numbers`."""

    blocks: SourceTensor
    scales: SourceTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Experts, inputs, outputs."""
        num_experts, num_outputs, num_blocks, _ = self.blocks.shape
        return num_experts, num_blocks * _BLOCK_NUMBERS, num_outputs

    def steps(self) -> Iterator[NDArray[np.float32]]:
        """See `Numbers.steps`; the codes of one expert are in memory meanwhile."""
        _, num_outputs, num_blocks, _ = self.blocks.shape
        expert_blocks = num_outputs * num_blocks
        step = max(1, rows_per_step(num_outputs) // _BLOCK_NUMBERS)
        for codes, exponents in zip(
            byte_steps(self.blocks, expert_blocks * _BLOCK_BYTES),
            byte_steps(self.scales, expert_blocks),
            strict=True,
        ):
            blocks = codes.reshape(num_outputs, num_blocks, _BLOCK_BYTES)
            powers = exponents.reshape(num_outputs, num_blocks)
            for first in range(0, num_blocks, step):
                numbers = _numbers(blocks[:, first : first + step], powers[:, first : first + step])
                yield np.ascontiguousarray(numbers.T)


def _numbers(blocks: NDArray[np.uint8], powers: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`[N, blocks * 32]`; of two numbers in a byte the first has the lower bits."""
    codes = np.stack([blocks & 0x0F, blocks >> 4], axis=-1).reshape(*powers.shape, -1)
    exponents = powers.astype(np.int32) - _EXPONENT_BIAS
    numbers = np.ldexp(_VALUES[codes], exponents[..., None])
    numbers[powers == _NO_NUMBER] = np.nan
    return numbers.reshape(len(blocks), -1)


def take_mxfp4(held: Held, settings: Mapping[str, Any], target: str | None) -> None:
    """Take gpt-oss' experts.

    Raises:
        UnsupportedModelError: settings that are refused by name.
        CheckpointError: tensors that are missing or do not fit.
    """
    refuse_unknown(settings, _KNOWN, "quant_method 'mxfp4'")
    for name in held.ending("_blocks"):
        blocks = held.take(f"{name}_blocks", _BYTES)
        if len(blocks.shape) != 4 or blocks.shape[-1] != _BLOCK_BYTES or 0 in blocks.shape:
            raise CheckpointError(
                f"{held.path}: {blocks.name}: expected experts, outputs, blocks and "
                f"{_BLOCK_BYTES} bytes, got {blocks.shape}"
            )
        scales = held.take(f"{name}_scales", _BYTES, blocks.shape[:-1])
        held.put(name, StackedExperts(blocks, scales), (target or "BF16",))
