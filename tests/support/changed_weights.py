"""A bundle with one number changed, as a fault in a disk or a careless conversion would."""

import hashlib
import json
import struct
from pathlib import Path

import msgspec
import numpy as np

from submodels.bundle.fingerprint import fingerprint_of
from submodels.bundle.manifest_file import MANIFEST_FILE, read_manifest
from submodels.manifest import WrittenTensor
from submodels.tensors.tensor_layout import Part, placements


def change_one_weight(bundle: Path, tensor: str, addend: float, keeps_hash: bool) -> None:
    """Add to the first number of a float32 tensor of a cloud bundle.

    `keeps_hash` False also writes the new hashes and the fingerprint that follows from them into
    both manifests, so that nothing but what the model says gives the change away.
    """
    path = bundle / "cloud" / "model.safetensors"
    data = bytearray(path.read_bytes())
    (header_bytes,) = struct.unpack_from("<Q", data)
    info = json.loads(data[8 : 8 + header_bytes])[tensor]
    assert info["dtype"] == "F32"
    begin = 8 + header_bytes + info["data_offsets"][0]
    number = np.frombuffer(data, np.float32, 1, begin)
    number += np.float32(addend)
    path.write_bytes(data)
    if not keeps_hash:
        end = 8 + header_bytes + info["data_offsets"][1]
        _hide(bundle, tensor, hashlib.sha256(data[begin:end]).hexdigest())


def _hide(bundle: Path, tensor: str, sha256: str) -> None:
    for role in ("device", "cloud"):
        path = bundle / role / MANIFEST_FILE
        manifest = read_manifest(bundle / role)
        source = next(
            placement.source
            for placement in placements(
                manifest.shape, manifest.num_input_layers, manifest.num_output_layers
            )
            if placement.part is Part.MIDDLE and placement.name == tensor
        )
        written = WrittenTensor(dtype=manifest.tensors[source].dtype, sha256=sha256)
        tensors = manifest.tensors | {source: written}
        fingerprint = fingerprint_of(manifest.shape, manifest.rope_parameters, tensors)
        changed = msgspec.structs.replace(manifest, tensors=tensors, fingerprint=fingerprint)
        path.write_bytes(msgspec.json.encode(changed))
