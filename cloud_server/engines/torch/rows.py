"""Hidden states between numpy, as the engine interface has them, and torch tensors."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import ml_dtypes
import numpy as np
import torch

from cloud_server.engines.engine import Rows
from wire.messages import Dtype

_TORCH: Final = MappingProxyType(
    {Dtype.FP32: torch.float32, Dtype.FP16: torch.float16, Dtype.BF16: torch.bfloat16}
)


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The same number format in torch's words."""
    return _TORCH[dtype]


def tensor_of(parts: Sequence[Rows], dtype: Dtype, device: torch.device) -> torch.Tensor:
    """The parts `[T_i, H]` below each other, as one tensor with memory of its own."""
    joined = np.concatenate(parts)
    if dtype is Dtype.BF16:
        tensor = torch.from_numpy(joined.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(joined)
    return tensor.to(device)


def rows_of(tensor: torch.Tensor) -> Rows:
    """A tensor `[T, H]` on the host as an array that shares its memory."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
