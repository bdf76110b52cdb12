"""compressed-tensors (llm-compressor): integers or floats of 8 bits, or integers packed in words.

Source: the package's `PackedQuantizationCompressor` and `NaiveQuantizationCompressor`. Numbers are
computed in the format of their scales, as there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.quantised.fp8 import E4M3, OF_ACTIVATIONS
from submodels.checkpoint.quantised.held import FLOATS, Held
from submodels.checkpoint.quantised.scaled import Grid, PackedCodes, PlainCodes, ScaledMatrix
from submodels.checkpoint.quantised.schemes import METHOD, Scheme, read_schemes, scheme_of
from submodels.checkpoint.quantised.tensors import rounded_by
from submodels.checkpoint.reading import whole
from submodels.errors import CheckpointError, UnsupportedModelError

_PACKED, _PLAIN = "pack-quantized", ("int-quantized", "float-quantized", "naive-quantized")


def take_compressed(held: Held, settings: Mapping[str, Any], target: str | None) -> None:
    """Take what compressed-tensors has made.

    Raises:
        UnsupportedModelError: settings that are refused by name.
        CheckpointError: tensors that are missing or do not fit.
    """
    schemes = read_schemes(settings)
    for name in held.ending(".weight_packed"):
        _take_packed(held, name, scheme_of(name, schemes), target)
    for name in held.ending(".weight_scale"):
        _take_plain(held, name, scheme_of(name, schemes), target)
    held.drop(*OF_ACTIVATIONS)


def _take_packed(held: Held, name: str, scheme: Scheme, target: str | None) -> None:
    _expect_format(name, scheme, _PACKED)
    words = held.take_matrix(f"{name}.weight_packed", ("I32",))
    stored = held.take(f"{name}.weight_shape", ("I64", "I32"), (2,))
    rows, columns = map(int, whole(stored))
    if (rows, -(-columns * scheme.bits // 32)) != words.shape:
        raise CheckpointError(
            f"{held.path}: {words.name}: expected {scheme.bits} bits for each of "
            f"{(rows, columns)}, got {words.shape} words"
        )
    _put(held, name, scheme, PackedCodes(words, (rows, columns), scheme.bits), target)


def _take_plain(held: Held, name: str, scheme: Scheme, target: str | None) -> None:
    _expect_format(name, scheme, *_PLAIN)
    codes = held.take_matrix(f"{name}.weight", ("I8",) if scheme.kind == "int" else E4M3)
    _put(held, name, scheme, PlainCodes(codes), target)


def _expect_format(name: str, scheme: Scheme, *formats: str) -> None:
    if scheme.format not in formats:
        raise UnsupportedModelError(
            f"{METHOD}: {name} is stored as {' or '.join(formats)}, its group of config.json says "
            f"{scheme.format!r}"
        )


def _put(
    held: Held, name: str, scheme: Scheme, codes: PackedCodes | PlainCodes, target: str | None
) -> None:
    grid, block = scheme.grid(codes.shape)
    shapes: list[tuple[int, ...]] = [grid] if grid != (1, 1) else [(1, 1), (1,), ()]
    if grid == (codes.shape[0], 1):
        shapes.append((grid[0],))
    scale = held.take(f"{name}.weight_scale", FLOATS, *shapes)
    zero = _zero(held, name, scheme, grid, block, shapes)
    order, groups = f"{name}.weight_g_idx", None
    if scheme.is_ordered or order in held.tensors:
        groups = held.take(order, ("I32", "I64"), codes.shape[1:])
    if groups is not None and not _is_ordered(held, groups, grid[1], block[1]):
        groups = None
    numbers = ScaledMatrix(codes, Grid(scale, grid, block), zero, groups)
    held.put(f"{name}.weight", numbers, rounded_by(scale.dtype, target or scale.dtype))


def _zero(
    held: Held,
    name: str,
    scheme: Scheme,
    grid: tuple[int, int],
    block: tuple[int, int],
    shapes: Sequence[tuple[int, ...]],
) -> Grid | None:
    """Zero points, which older versions stored although they were none."""
    full = f"{name}.weight_zero_point"
    if scheme.is_symmetric:
        held.tensors.pop(full, None)
        return None
    if scheme.format == _PACKED and grid[0] > 1:
        words = (-(-grid[0] * scheme.bits // 32), grid[1])
        return Grid(held.take(full, ("I32",), words), grid, block, scheme.bits)
    return Grid(held.take(full, ("I8",), *shapes), grid, block)


def _is_ordered(held: Held, groups: SourceTensor, num_groups: int, size: int) -> bool:
    """Whether columns are ordered at all; groups of other sizes are refused, since tools differ."""
    order = whole(groups)
    if (order == -1).any():
        return False
    is_in_range = order.min() >= 0 and order.max() < num_groups
    if not is_in_range or set(np.bincount(order, minlength=num_groups)) != {size}:
        raise CheckpointError(
            f"{held.path}: {groups.name}: expected {num_groups} groups of {size} columns each"
        )
    return True
