"""Which number format a machine computes faster in, by a short test."""

from collections.abc import Callable

import torch

# Less is not worth the digits, and may be noise.
_WORTH_IT = 0.8


def faster_dtype(device: str, clock: Callable[[], float]) -> torch.dtype:
    """The number format in which a device multiplies faster: float32 or bfloat16.

    `clock` is in seconds, the processor's where others use the machine too.
    """
    if device != "cpu":
        return torch.bfloat16
    times = {dtype: _product_s(dtype, clock) for dtype in (torch.float32, torch.bfloat16)}
    is_worth_it = times[torch.bfloat16] < _WORTH_IT * times[torch.float32]
    return torch.bfloat16 if is_worth_it else torch.float32


@torch.inference_mode()
def _product_s(dtype: torch.dtype, clock: Callable[[], float]) -> float:
    rows, weight = torch.ones(64, 512, dtype=dtype), torch.ones(1024, 512, dtype=dtype)
    best_s = float("inf")
    for _ in range(6):
        began_s = clock()
        torch.nn.functional.linear(rows, weight)
        best_s = min(best_s, clock() - began_s)
    return best_s
