"""Which further files an ONNX model would have read. Needs no onnx."""

import mmap
import re
from collections.abc import Collection
from pathlib import Path

from submodels.errors import BundleError

# `external_data` of a tensor is a list of keys and values; the key is spelled out in the file.
_KEY = b"location"
# As every writer of protobuf puts it: field 1 is the key, field 2 a value of up to 127 bytes.
_ENTRY = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")

# ONNX Runtime would take its own format under this name as well.
_OTHER_FORMAT = b"ORTM"


def check_external_data(path: Path, listed: Collection[str]) -> None:
    """Whether a model keeps its weights in itself, or in files of its bundle.

    The model is searched for the key under which ONNX names another file, so that no form of the
    reference escapes; the bundle's own graphs have no such word elsewhere.

    Raises:
        BundleError: it names a file that `hat.json` does not list, or names one in an odd way.
        OSError: the model cannot be read.
    """
    if path.stat().st_size == 0:
        raise BundleError(f"{path} is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[4:8] == _OTHER_FORMAT:
            raise BundleError(f"{path} is not an ONNX model")
        place = -1
        while (place := data.find(_KEY, place + 1)) >= 0:
            entry = _ENTRY.match(data, place - 2) if place >= 2 else None
            if entry is None:
                raise BundleError(f"{path} names other files in a way that cannot be checked")
            end = entry.end() + entry[1][0]
            name = data[entry.end() : end].decode(errors="replace")
            if name not in listed:
                raise BundleError(
                    f"{path} reads weights from {name!r}, which hat.json does not list"
                )
