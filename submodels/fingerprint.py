"""The fingerprint of a model: what both sides compare before they compute together."""

import hashlib
from collections.abc import Mapping

import msgspec

from submodels.manifest import ModelShape


class Fingerprint:
    """SHA-256 over the shape and over every tensor's name, number format, shape and bytes.

    Tensors may come in any order. Rotary numbers are left out in favour of the parameters they
    were computed from, since their last bit may differ between machines.
    """

    def __init__(self, shape: ModelShape, rope_parameters: Mapping[str, float | str]) -> None:
        fields = msgspec.to_builtins(shape)
        fields["rope"] = dict(rope_parameters)
        self._config = msgspec.json.encode(fields, order="sorted")
        self._tensors: dict[str, tuple[str, tuple[int, ...], str]] = {}

    def add(self, name: str, dtype: str, shape: tuple[int, ...], sha256: str) -> None:
        """Take in one tensor of the checkpoint; `sha256` (hex) is that of its bytes."""
        self._tensors[name] = (dtype, shape, sha256)

    def hexdigest(self) -> str:
        """The fingerprint as 64 hex digits."""
        digest = hashlib.sha256(self._config)
        digest.update(msgspec.json.encode(self._tensors, order="sorted"))
        return digest.hexdigest()
