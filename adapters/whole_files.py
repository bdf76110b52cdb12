"""Files of trained weights and their cards: written whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from submodels.bundle.whole_file import replace_whole
from submodels.manifest import BundleFile
from submodels.tensors.safetensors_writer import SafetensorsWriter, TensorToWrite


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> BundleFile:
    """Write a safetensors file, whole numbers in int32 and all else in float32; its size and hash.

    Raises:
        OverflowError: a whole number that int32 does not hold.
    """
    arrays = {name: _storable(array) for name, array in tensors.items()}
    partial = _partial(path)
    partial.unlink(missing_ok=True)
    announced = [
        TensorToWrite(name, "I32" if a.dtype.kind == "i" else "F32", a.shape, a.nbytes)
        for name, a in arrays.items()
    ]
    with SafetensorsWriter(partial, announced) as writer:
        for name, array in arrays.items():
            writer.write(name, array.tobytes())
        written = writer.finish()
    os.replace(partial, path)
    return written


def write_json(path: Path, card: msgspec.Struct, indent: int) -> None:
    """Write a card as indented JSON."""
    replace_whole(path, msgspec.json.format(msgspec.json.encode(card), indent=indent) + b"\n")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "iu":
        return np.ascontiguousarray(array, np.dtype("<f4"))
    bounds = np.iinfo(np.int32)
    if array.size and (array.min() < bounds.min or array.max() > bounds.max):
        raise OverflowError(f"expected whole numbers that int32 holds, got up to {array.max()}")
    return np.ascontiguousarray(array, np.dtype("<i4"))
