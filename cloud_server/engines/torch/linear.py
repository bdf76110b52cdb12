"""Linear layers for few rows: weights repacked once for oneDNN where that pays."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

Linear = Callable[[torch.Tensor], torch.Tensor]

_MIN_PACKED_FLOAT32_ELEMENTS = 1 << 17
"""Smaller float32 weights are faster unpacked: a call of oneDNN costs 12 us (measured, Zen 4)."""

_PROBE_ROWS = 5
_PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None, packed: bool) -> Linear:
    """`x -> x @ weight.T + bias` for `x` `[T, in]`; `weight` `[out, in]` may be dropped after.

    With `packed` a large enough weight is kept in oneDNN's own layout only: the few rows of a
    verification then take 1.3 to 3 times less time.
    """
    small = weight.dtype == torch.float32 and weight.numel() < _MIN_PACKED_FLOAT32_ELEMENTS
    if not packed or small:
        return _plain(weight, bias)
    return _packed(weight, bias)


def why_not_packed(device: torch.device, dtype: torch.dtype) -> str | None:
    """None when this machine packs weights right, else the reason, for the log.

    The operators are private to torch, so they are tried and compared with `F.linear` once.
    """
    if device.type != "cpu":
        return f"weights on {device.type} stay as they are"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch was built without oneDNN"
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator).to(dtype)
    bias = torch.randn(96, generator=generator).to(dtype)
    rows = torch.randn(_PROBE_ROWS, 64, generator=generator).to(dtype)
    expected = F.linear(rows, weight, bias).float()
    try:
        difference = float((_packed(weight, bias)(rows).float() - expected).abs().max())
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        return f"oneDNN refused: {str(error).splitlines()[0]}"
    allowed = _PROBE_TOLERANCE[dtype] * float(expected.abs().max())
    if not difference <= allowed:
        return (
            f"packed and plain results differ by {difference:.3g}, at most {allowed:.3g} expected"
        )
    return None


def _plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    return lambda rows: F.linear(rows, weight, bias)


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    multiply = torch.ops.mkldnn._linear_pointwise
    none: list[float] = []

    def linear(rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = multiply(rows, packed, bias, "none", none, "")
        return product

    return linear
