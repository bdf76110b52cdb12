"""A bundle with one number changed, as a fault in a disk or a careless conversion would."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np


def change_one_weight(bundle: Path, tensor: str, addend: float, keeps_hash: bool) -> None:
    """Add to the first number of a float32 tensor of a cloud bundle.

    `keeps_hash` False also writes the file's new SHA-256 into the manifest, so that nothing but
    what the model says gives the change away.
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
        manifest_path = bundle / "cloud" / "hat.json"
        manifest = json.loads(manifest_path.read_text())
        manifest["files"][path.name]["sha256"] = hashlib.sha256(data).hexdigest()
        manifest_path.write_text(json.dumps(manifest))
