"""The fingerprint of a model: what both sides compare before they compute together."""

import hashlib
from collections.abc import Mapping

import msgspec

from submodels.manifest import ModelShape, WrittenTensor
from submodels.tensors.tensor_layout import placements

RopeParameters = Mapping[str, float | str]


def fingerprint_of(
    shape: ModelShape, rope_parameters: RopeParameters, tensors: Mapping[str, WrittenTensor]
) -> str:
    """SHA-256 (hex) over the shape and over every tensor's name, number format, shape and bytes.

    Rotary numbers are left out in favour of the parameters they were computed from, since their
    last bit may differ between machines.

    Args:
        shape: The whole model's.
        rope_parameters: What its rotary numbers were computed from.
        tensors: By their names in the checkpoint; those the model does not have count for nothing.
    """
    fields = msgspec.to_builtins(shape)
    fields["rope"] = dict(rope_parameters)
    fields.get("description", {}).pop("other_ropes", None)
    digest = hashlib.sha256(msgspec.json.encode(fields, order="sorted"))
    named = {
        placement.source: (
            tensors[placement.source].dtype,
            placement.shape,
            tensors[placement.source].sha256,
        )
        for placement in placements(shape, 0, 0)
        if placement.source in tensors
    }
    digest.update(msgspec.json.encode(named, order="sorted"))
    return digest.hexdigest()
