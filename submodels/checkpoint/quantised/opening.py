"""A checkpoint's quantised tensors read as plain ones, by the method that its config.json names."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from submodels.checkpoint.checkpoint import Checkpoint
from submodels.checkpoint.quantised.bits_and_bytes import take_bitsandbytes
from submodels.checkpoint.quantised.columns import take_awq, take_gptq
from submodels.checkpoint.quantised.compressed import take_compressed
from submodels.checkpoint.quantised.fp8 import take_fp8
from submodels.checkpoint.quantised.held import Held
from submodels.checkpoint.quantised.mxfp4 import take_mxfp4
from submodels.checkpoint.quantised.settings import number_format, quantisation_of
from submodels.errors import CheckpointError, UnsupportedModelError

_Take = Callable[[Held, Mapping[str, Any], str | None], None]

METHODS: Mapping[str, _Take] = MappingProxyType(
    {
        "fp8": take_fp8,
        "awq": take_awq,
        "gptq": take_gptq,
        "compressed-tensors": take_compressed,
        "mxfp4": take_mxfp4,
        "bitsandbytes": take_bitsandbytes,
    }
)
"""What is read, by `quant_method`."""


def dequantised(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with plain tensors instead of quantised ones; one without them as it is.

    They are computed while they are read, a part of a tensor at a time. Their format is the one
    that config.json names, or else that of their scales, or bfloat16.

    Raises:
        UnsupportedModelError: a method, or a setting of one, that is refused by name.
        CheckpointError: tensors that are missing, or do not fit the method.
    """
    settings = quantisation_of(checkpoint.folder)
    if settings is None:
        return checkpoint
    method = settings["quant_method"]
    take = METHODS.get(method)
    if take is None:
        raise UnsupportedModelError(
            f"quant_method {method!r} is not supported; supported: {', '.join(METHODS)}; split "
            "the unquantised model, or a GGUF file of it"
        )
    held = Held(checkpoint.path, dict(checkpoint.tensors))
    take(held, settings, number_format(checkpoint.folder))
    if not held.computed:
        raise CheckpointError(
            f"{checkpoint.path} is said to have the quant_method {method!r}, and no tensor is "
            "quantised so"
        )
    return replace(checkpoint, tensors=MappingProxyType(held.all()))
