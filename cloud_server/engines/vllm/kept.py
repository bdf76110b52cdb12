"""Which layers that stayed as another tool has quantised them vLLM's build for CPUs can run."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from process.errors import StartError

_INSTEAD = "split without --keep-quantisation, or use a GPU"


def check_kept_here(folder: Path) -> None:
    """`check_kept_on_cpu` for the bundle in a folder, and the processor of this machine.

    Raises:
        StartError: as there.
    """
    import torch

    config = json.loads((folder / "config.json").read_bytes())
    # A function of torch's own, which vLLM's kernels ask as well.
    has_amx = bool(torch.cpu._is_amx_tile_supported())
    check_kept_on_cpu(config.get("quantization_config") or {}, has_amx)


def check_kept_on_cpu(settings: Mapping[str, Any], has_amx: bool) -> None:
    """Return if vLLM has kernels on this CPU for a bundle's `quantization_config`.

    Its workers would say the same, each in a trace of its own, some only after the weights are
    loaded. `has_amx`: whether the processor multiplies matrices in tiles (AMX).

    Source: vLLM 0.32's `kernels/linear` and trials of its build for CPUs: `CPUWNA16LinearKernel`
    takes 4 bits; kernels for fp8 ask for AMX, but for those of torch, for which weights with one
    scale are rounded anew by a function that the build does not have.

    Raises:
        StartError: it has none.
    """
    weights = list(_weights_of_groups(settings))
    came = _gptq(settings) or next(filter(None, (_bytes(*each) for each in weights)), None)
    if came is not None:
        raise StartError(
            "engine vllm: on a CPU it has kernels for symmetric GPTQ of 4 bits, and for symmetric "
            f"integers of 8 bits that are not packed; the bundle has {came}; {_INSTEAD}"
        )
    has_floats = any(
        each.get("type") == "float" and each.get("strategy") != "channel" for _, each in weights
    )
    if not has_amx and (settings.get("quant_method") == "fp8" or has_floats):
        raise StartError(
            "engine vllm: on a CPU without AMX, which this one is, it runs fp8 only with a scale "
            f"for each row (compressed-tensors, strategy channel); {_INSTEAD}"
        )


def _gptq(settings: Mapping[str, Any]) -> str | None:
    """What of GPTQ it has no kernel for; None: nothing."""
    if settings.get("quant_method") != "gptq":
        return None
    bits, is_symmetric = settings.get("bits"), settings.get("sym", True)
    if bits == 4 and is_symmetric:
        return None
    return f"GPTQ of {bits} bits{'' if is_symmetric else ', not symmetric'}"


def _bytes(name: str | None, weights: Mapping[str, Any]) -> str | None:
    """What of a group's integers of 8 bits it has no kernel for; None: nothing."""
    is_symmetric = weights.get("symmetric", True)
    if weights.get("num_bits") != 8 or (name != "pack-quantized" and is_symmetric):
        return None
    return f"{name} of 8 bits{'' if is_symmetric else ', not symmetric'}"


def _weights_of_groups(
    settings: Mapping[str, Any],
) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """The format of each group of compressed-tensors, and what it says of its weights."""
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            yield group.get("format") or settings.get("format"), weights
