"""Matrices packed as quantising tools pack them, by the descriptions of the formats.

Each chooses codes first, and says beside them which numbers those are, computed from the codes and
never from what was packed: a mistake in packing shows against what is read, and a mistake that
packing and reading share shows against the tools' own code (`tests/golden/test_quantised.py`).
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Packed = Mapping[str, Tensor]
"""What is stored, by what follows a module's name."""
Pack = Callable[[Tensor], tuple[Packed, Tensor]]
"""Of a matrix `[N, K]` in float32: what is stored, and which numbers that is."""
AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbours lies in each place of a word, from the lowest bits (AutoAWQ)."""
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
FP4 = (
    *(0.0, 0.0052083334885537624, 0.6666666865348816, 1.0),
    *(0.3333333432674408, 0.5, 0.1666666716337204, 0.25),
)
"""bitsandbytes' tables; the second goes on with its negatives."""
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def words_of(codes: Tensor, bits: int) -> Tensor:
    """Codes along the last axis in words of 32 bits, the first in the lowest; padded with zeros."""
    per_word = 32 // bits
    padded = torch.nn.functional.pad(codes.long(), (0, -codes.shape[-1] % per_word))
    grouped = padded.reshape(*codes.shape[:-1], -1, per_word)
    words = torch.zeros(grouped.shape[:-1], dtype=torch.long)
    for place in range(per_word):
        words |= grouped[..., place] << (bits * place)
    return signed(words)


def signed(words: Tensor) -> Tensor:
    """Words as files hold them."""
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32).contiguous()


def spread(numbers: Tensor, block: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """A number per block, as one for each place of the matrix."""
    rows = torch.arange(shape[0]) // block[0]
    columns = torch.arange(shape[1]) // block[1]
    return numbers[rows][:, columns]


def absmax(weight: Tensor, block: tuple[int, int]) -> Tensor:
    """The largest number of each block, without its sign."""
    rows, columns = weight.shape
    grid = torch.zeros(-(-rows // block[0]), -(-columns // block[1]))
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            part = weight[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
            grid[i, j] = part.abs().max()
    return grid


def _integers(
    weight: Tensor, bits: int, group: int, order: Tensor | None = None, *, symmetric: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes from 0 of a matrix, zero points and scales `[N, G]`, and the group of each column."""
    columns = weight.shape[1]
    group_of = torch.arange(columns) // group if order is None else order // group
    top = (1 << bits) - 1
    scales = torch.zeros(weight.shape[0], int(group_of.max()) + 1)
    zeros = torch.zeros_like(scales)
    for index in range(scales.shape[1]):
        part = weight[:, group_of == index]
        low, high = part.min(1).values.clamp(max=0), part.max(1).values.clamp(min=0)
        if symmetric:
            scales[:, index] = part.abs().max(1).values * 2 / top
            zeros[:, index] = 1 << (bits - 1)
        else:
            scales[:, index] = (high - low) / top
            zeros[:, index] = (-low / scales[:, index]).round().clamp(1, top - 1)
    scales = scales.half()
    codes = (weight / scales[:, group_of].float() + zeros[:, group_of]).round().clamp(0, top)
    return codes.long(), zeros.long(), scales, group_of


def _read_as(codes: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    """In the format of the scales."""
    return (codes - zeros).to(scales.dtype) * scales


def fp8(
    block: tuple[int, int] | None, suffix: str = "_scale_inv", dtype: torch.dtype = torch.float32
) -> Pack:
    """Floats of 8 bits: a scale per block, or one for the tensor."""

    def pack(weight: Tensor) -> tuple[Packed, Tensor]:
        of = (weight.shape[0], weight.shape[1]) if block is None else block
        of = tuple(size or whole for size, whole in zip(of, weight.shape, strict=True))
        scale = (absmax(weight, of) / 448.0).to(dtype)
        each = spread(scale, of, tuple(weight.shape)).float()
        codes = (weight / each).clamp(-448, 448).to(torch.float8_e4m3fn)
        numbers = codes.float() * each
        if dtype != torch.float32:
            numbers = numbers.to(dtype)
        stored = scale.reshape(()) if block is None else scale
        return {".weight": codes, f".weight{suffix}": stored}, numbers.to(torch.bfloat16)

    return pack


def awq(weight: Tensor) -> tuple[Packed, Tensor]:
    """AutoAWQ's `gemm` with groups of 32."""
    codes, zeros, scales, group_of = _integers(weight, 4, 32)
    numbers = _read_as(codes, zeros[:, group_of], scales[:, group_of])

    def packed(matrix: Tensor) -> Tensor:
        places = matrix.reshape(matrix.shape[0], -1, 8)[:, :, list(AWQ_PLACES)]
        return words_of(places.reshape(matrix.shape), 4)

    stored = {
        ".qweight": packed(codes.T.contiguous()),
        ".qzeros": packed(zeros.T.contiguous()),
        ".scales": scales.T.contiguous(),
    }
    return stored, numbers


def gptq(
    bits: int, version: int, *, is_ordered: bool = False, group: int = 32, symmetric: bool = False
) -> Pack:
    """GPTQ, whose first version stores zero points less one."""

    def pack(weight: Tensor) -> tuple[Packed, Tensor]:
        columns = weight.shape[1]
        size = columns if group == -1 else group
        order = None
        if is_ordered:
            order = torch.randperm(columns, generator=torch.Generator().manual_seed(columns))
        codes, zeros, scales, group_of = _integers(weight, bits, size, order, symmetric=symmetric)
        numbers = _read_as(codes, zeros[:, group_of], scales[:, group_of])
        stored = {
            ".qweight": words_of(codes, bits).T.contiguous(),
            ".qzeros": words_of(zeros.T - (1 if version == 1 else 0), bits),
            ".scales": scales.T.contiguous(),
            ".g_idx": group_of.to(torch.int32),
        }
        return stored, numbers

    return pack


def compressed_words(bits: int, group: int, *, symmetric: bool, is_ordered: bool = False) -> Pack:
    """compressed-tensors' `pack-quantized`; zero points are packed along rows."""

    def pack(weight: Tensor) -> tuple[Packed, Tensor]:
        columns = weight.shape[1]
        size = columns if group == -1 else group
        order = None
        if is_ordered:
            order = torch.randperm(columns, generator=torch.Generator().manual_seed(columns))
        codes, zeros, scales, group_of = _integers(weight, bits, size, order, symmetric=symmetric)
        scales = scales.to(torch.bfloat16)
        numbers = _read_as(codes, zeros[:, group_of], scales[:, group_of])
        stored = {
            ".weight_packed": words_of(codes, bits),
            ".weight_shape": torch.tensor(weight.shape),
            ".weight_scale": scales,
        }
        if not symmetric:
            stored[".weight_zero_point"] = words_of(zeros.T, bits).T.contiguous()
        if is_ordered:
            stored[".weight_g_idx"] = group_of.to(torch.int32)
        return stored, numbers

    return pack


def compressed_bytes(*, symmetric: bool) -> Pack:
    """compressed-tensors' `int-quantized`, a scale for each row."""

    def pack(weight: Tensor) -> tuple[Packed, Tensor]:
        codes, zeros, scales, group_of = _integers(weight, 8, weight.shape[1], symmetric=symmetric)
        scales = scales.to(torch.bfloat16)
        numbers = _read_as(codes, zeros[:, group_of], scales[:, group_of])
        stored = {".weight": (codes - 128).to(torch.int8), ".weight_scale": scales}
        if not symmetric:
            stored[".weight_zero_point"] = (zeros - 128).to(torch.int8)
        return stored, numbers

    return pack


def mxfp4(weight: Tensor) -> tuple[Packed, Tensor]:
    """gpt-oss' experts `[E, K, N]`, stored as `[E, N, K]` in blocks of 32."""
    rows = weight.transpose(1, 2).reshape(weight.shape[0], weight.shape[2], -1, 32)
    exponents = (rows.abs().amax(-1) / 6.0).log2().ceil()
    values = torch.tensor([*E2M1, *(-value for value in E2M1)])
    scaled = rows / exponents.exp2()[..., None]
    codes = (scaled[..., None] - values).abs().argmin(-1)
    numbers = (values[codes] * exponents.exp2()[..., None]).reshape(
        weight.shape[0], weight.shape[2], -1
    )
    stored = {
        "_blocks": (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8),
        "_scales": (exponents + 127).to(torch.uint8),
    }
    return stored, numbers.transpose(1, 2).to(torch.bfloat16).contiguous()


def four_bits(kind: str, block: int, *, is_nested: bool) -> Pack:
    """bitsandbytes' tables of sixteen numbers, the scales of blocks perhaps by a table as well."""
    table = torch.tensor(NF4 if kind == "nf4" else (*FP4, *(-value for value in FP4)))

    def pack(weight: Tensor) -> tuple[Packed, Tensor]:
        flat = weight.reshape(-1)
        blocks = torch.nn.functional.pad(flat, (0, -len(flat) % block)).reshape(-1, block)
        scales = blocks.abs().amax(1)
        state: dict[str, Any] = {
            "quant_type": kind,
            "blocksize": block,
            "dtype": "bfloat16",
            "shape": list(weight.shape),
        }
        stored: dict[str, Tensor] = {}
        if is_nested:
            scales, nested = _nested(scales, state)
            stored |= nested
        else:
            stored[".weight.absmax"] = scales
        codes = ((blocks / scales[:, None])[..., None] - table).abs().argmin(-1)
        numbers = (table[codes] * scales[:, None]).reshape(-1)[: len(flat)].reshape(weight.shape)
        codes = codes.reshape(-1)[: len(flat)]
        packed = (codes[0::2] << 4 | codes[1::2]).to(torch.uint8)
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        stored |= {
            ".weight": packed[:, None].contiguous(),
            ".weight.quant_map": table,
            f".weight.quant_state.bitsandbytes__{kind}": text,
        }
        return stored, numbers.to(torch.bfloat16)

    return pack


def _nested(scales: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Scales of blocks as bytes of a table, 256 of which share a scale, around their mean."""
    offset = float(scales.mean())
    table = torch.linspace(-1, 1, 256).pow(3)
    around = torch.nn.functional.pad(scales - offset, (0, -len(scales) % 256)).reshape(-1, 256)
    of_each = around.abs().amax(1)
    codes = ((around / of_each[:, None])[..., None] - table).abs().argmin(-1)
    read = (table[codes] * of_each[:, None]).reshape(-1)[: len(scales)] + torch.tensor(offset)
    state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
    stored = {
        ".weight.absmax": codes.reshape(-1)[: len(scales)].to(torch.uint8),
        ".weight.nested_quant_map": table,
        ".weight.nested_absmax": of_each,
    }
    return read, stored


def eight_bits(weight: Tensor) -> tuple[Packed, Tensor]:
    """bitsandbytes' integers, whose scale is the largest number of a row."""
    largest = weight.abs().amax(1)
    codes = (weight * (127.0 / largest)[:, None]).round().to(torch.int8)
    numbers = codes.float() * largest[:, None] * 7.874015718698502e-3
    stored = {
        ".weight": codes,
        ".SCB": largest,
        ".weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    return stored, numbers.to(torch.bfloat16)
