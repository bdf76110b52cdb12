"""AWQ and GPTQ: integers of few bits that lie transposed, with scales per group of inputs.

Sources: AutoAWQ's `dequantize_gemm`; GPTQModel's `TorchQuantLinear.dequantize_weight` and
`convert_gptq_v1_to_v2_format_module`, by which transformers reads both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.quantised.by_module import DYNAMIC, rules_of, settings_of
from submodels.checkpoint.quantised.held import FLOATS, Held
from submodels.checkpoint.quantised.settings import expect, group_size_of, refuse_unknown
from submodels.checkpoint.quantised.tensors import STEP_NUMBERS, rounded_by
from submodels.checkpoint.reading import whole
from submodels.errors import CheckpointError

# How a model was calibrated, or which kernels are to run it; the bits are the same.
_PASSED_OVER = frozenset(
    {
        *("quant_method", "damp_percent", "damp_auto_increment", "true_sequential", "sym"),
        *("static_groups", "model_name_or_path", "model_file_base_name", "quantizer", "meta"),
        *("dataset", "tokenizer", "batch_size", "pad_token_id", "max_input_length", "model_seqlen"),
        *("use_cuda_fp16", "use_exllama", "disable_exllama", "exllama_config", "backend"),
        *("cache_block_outputs", "block_name_to_quantize", "module_name_preceding_first_block"),
        *("modules_in_block_to_quantize", "act_group_aware", "lm_head", "mse", "desc_act"),
        *("modules_to_not_convert", "do_fuse", "modules_to_fuse", "fuse_max_seq_len"),
        "version",
    }
)
_KNOWN = _PASSED_OVER | {"bits", "group_size", "format", "checkpoint_format", "pack_dtype"}
_KNOWN |= {"zero_point", "method"}
_WORDS = ("I32",)
# Of eight neighbours the places in a word, from the lowest bits: AutoAWQ's `AWQ_REVERSE_ORDER`.
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a matrix is packed."""

    bits: int
    group_size: int
    """How many inputs share a scale; -1: all of them."""
    is_awq: bool = False
    """Words lie along outputs in AWQ's order; else along inputs."""
    zero_offset: int = 0
    """What is added to stored zero points."""
    is_ordered: bool = False
    """Which group an input belongs to has to be stored."""

    @property
    def per_word(self) -> int:
        """How many integers a word holds."""
        return 32 // self.bits

    def along_outputs(self, words: NDArray[np.uint32]) -> NDArray[np.int16]:
        """Integers out of words along rows."""
        order = _AWQ_ORDER if self.is_awq else tuple(range(self.per_word))
        shifts = np.array(order, np.uint32) * np.uint32(self.bits)
        codes = (words[:, :, None] >> shifts) & np.uint32((1 << self.bits) - 1)
        return codes.astype(np.int16).reshape(len(words), -1)

    def along_inputs(self, words: NDArray[np.uint32]) -> NDArray[np.int16]:
        """Integers out of words along columns."""
        shifts = np.arange(0, 32, self.bits, dtype=np.uint32)
        codes = (words[:, None, :] >> shifts[:, None]) & np.uint32((1 << self.bits) - 1)
        return codes.astype(np.int16).reshape(-1, words.shape[1])

    def zero_points(self, words: NDArray[np.uint32]) -> NDArray[np.int16]:
        """An offset is added to whole words, as what it undoes was: it may carry."""
        ones = np.uint32(((1 << 32) - 1) // ((1 << self.bits) - 1))
        return self.along_outputs(words + np.uint32(self.zero_offset) * ones)


@dataclass(frozen=True, slots=True)
class GroupedInputs:
    """`(code - zero) * scale` of a matrix `[N, K]` that is stored as `[K, N]`, a `Numbers`."""

    shape: tuple[int, int]
    layout: Layout
    codes: SourceTensor
    zeros: SourceTensor
    scales: SourceTensor
    group_of: SourceTensor | None
    """To which group each input belongs; None: one after the other."""

    def steps(self) -> Iterator[NDArray[np.float32]]:
        """See `Numbers.steps`; codes as they are packed are in memory meanwhile."""
        num_outputs, num_inputs = self.shape
        layout, words, group_of = self.layout, _words(self.codes), self._groups()
        scales = whole(self.scales).astype(np.float32)
        zeros = layout.zero_points(_words(self.zeros))
        step = max(1, STEP_NUMBERS // num_inputs // layout.per_word) * layout.per_word
        for first in range(0, num_outputs, step):
            last = min(first + step, num_outputs)
            if layout.is_awq:
                some = words[:, first // layout.per_word : last // layout.per_word]
                codes = layout.along_outputs(some)
            else:
                codes = layout.along_inputs(words[:, first:last])
            numbers = (codes - zeros[group_of, first:last]).astype(np.float32)
            numbers *= scales[group_of, first:last]
            yield np.ascontiguousarray(numbers.T)

    def _groups(self) -> NDArray[Any]:
        num_inputs, num_groups = self.shape[1], self.scales.shape[0]
        if self.group_of is None:
            size = self.layout.group_size
            return np.arange(num_inputs) // (num_inputs if size == -1 else size)
        groups = whole(self.group_of)
        if groups.min() < 0 or groups.max() >= num_groups:
            raise CheckpointError(
                f"{self.group_of.name}: expected groups from 0 to {num_groups - 1}, got "
                f"{groups.min()} to {groups.max()}"
            )
        return groups


def _words(source: SourceTensor) -> NDArray[np.uint32]:
    return whole(source).view(np.uint32)


def take_awq(held: Held, settings: Mapping[str, Any], target: str | None) -> None:
    """Take AWQ's matrices, in the layout `gemm`.

    Raises:
        UnsupportedModelError: settings that are refused by name.
        CheckpointError: tensors that are missing or do not fit.
    """
    method = "quant_method 'awq'"
    refuse_unknown(settings, _KNOWN, method)
    bits = expect(settings, "bits", method, 4)
    expect(settings, "method", method, "awq")
    expect(settings, "zero_point", method, True)
    expect(settings, "desc_act", method, False)
    told = settings.get("version") or settings.get("format")
    expect({"version": str(told).lower() if told else None}, "version", method, "gemm")
    layout = Layout(bits, group_size_of(settings, method), is_awq=True)
    _take(held, dict.fromkeys(held.ending(".qweight"), layout), target)


def take_gptq(held: Held, settings: Mapping[str, Any], target: str | None) -> None:
    """Take GPTQ's matrices; the first version of the format stores zero points less one.

    Modules may have settings of their own.

    Raises:
        UnsupportedModelError: settings that are refused by name.
        CheckpointError: tensors that are missing or do not fit.
    """
    method = "quant_method 'gptq'"
    known = _KNOWN - {"zero_point"}
    rules = rules_of(settings, known, method)
    plain = {key: value for key, value in settings.items() if key != DYNAMIC}
    refuse_unknown(plain, known, method)
    _gptq_layout(plain, method)
    layouts = {}
    for module in held.ending(".qweight"):
        own = settings_of(module, plain, rules)
        if own is not None:
            layouts[module] = _gptq_layout(own, method)
    _take(held, layouts, target)


def _gptq_layout(settings: Mapping[str, Any], method: str) -> Layout:
    bits = expect(settings, "bits", method, 4, 8, 2)
    told = settings.get("checkpoint_format") or settings.get("format")
    layout = expect({"checkpoint_format": told}, "checkpoint_format", method, "gptq", "gptq_v2")
    expect(settings, "method", method, "gptq")
    expect(settings, "pack_dtype", method, "int32")
    is_ordered = expect(settings, "desc_act", method, False, True)
    group_size, zero_offset = group_size_of(settings, method), int(layout == "gptq")
    return Layout(bits, group_size, False, zero_offset, is_ordered)


def _take(held: Held, layouts: Mapping[str, Layout], target: str | None) -> None:
    """Take the matrices of these modules."""
    for name, layout in layouts.items():
        codes = held.take_matrix(f"{name}.qweight", _WORDS)
        num_inputs, num_outputs = codes.shape
        if layout.is_awq:
            num_outputs *= layout.per_word
        else:
            num_inputs *= layout.per_word
        size = num_inputs if layout.group_size == -1 else layout.group_size
        num_groups = -(-num_inputs // size)
        if num_outputs % layout.per_word:
            raise CheckpointError(
                f"{held.path}: {codes.name}: expected a multiple of {layout.per_word} outputs, "
                f"got {num_outputs}"
            )
        words = (num_groups, num_outputs // layout.per_word)
        zeros = held.take(f"{name}.qzeros", _WORDS, words)
        scales = held.take(f"{name}.scales", FLOATS, (num_groups, num_outputs))
        order, groups = f"{name}.g_idx", None
        if layout.is_ordered or (order in held.tensors and not layout.is_awq):
            groups = held.take(order, ("I32", "I64"), (num_inputs,))
        shape = (num_outputs, num_inputs)
        numbers = GroupedInputs(shape, layout, codes, zeros, scales, groups)
        held.put(f"{name}.weight", numbers, rounded_by(scales.dtype, target or scales.dtype))
