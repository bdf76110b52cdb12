"""Number formats of stored weights: their names, and changing from one to another in pieces."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

from submodels.errors import SplitError
from submodels.manifest import DtypeName
from submodels.tensors.tensor_file import NUMPY_DTYPES

SAFETENSORS_NAMES: Mapping[DtypeName, str] = MappingProxyType(
    {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
)
_DTYPE_NAMES = MappingProxyType({short: name for name, short in SAFETENSORS_NAMES.items()})


def item_bytes(dtype: str) -> int:
    """Bytes per number of a format, by its safetensors name."""
    return NUMPY_DTYPES[dtype].itemsize


def main_dtype(tensors: Iterable[tuple[str, int]]) -> DtypeName:
    """The format that holds most numbers; norms are often kept wider than the rest.

    Args:
        tensors: Format (safetensors name) and size in bytes of each.
    """
    counts: Counter[str] = Counter()
    for dtype, num_bytes in tensors:
        counts[dtype] += num_bytes // item_bytes(dtype)
    return _DTYPE_NAMES[counts.most_common(1)[0][0]]


def cast(piece: bytes, source: str, target: str, name: str) -> bytes:
    """The numbers of a piece in another format, rounded to nearest even.

    Raises:
        SplitError: a finite number is too large for the target format.
    """
    if source == target:
        return piece
    numbers = np.frombuffer(piece, NUMPY_DTYPES[source])
    with np.errstate(over="ignore"):
        converted = numbers.astype(NUMPY_DTYPES[target])
    if np.any(np.isfinite(numbers) & ~np.isfinite(converted)):
        raise SplitError(
            f"{name} holds numbers too large for {_DTYPE_NAMES[target]}; choose bfloat16 or float32"
        )
    return converted.tobytes()
