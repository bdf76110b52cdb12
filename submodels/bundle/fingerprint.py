"""The fingerprint of a model: what both sides compare before they compute together."""

import hashlib
from collections.abc import Mapping

import msgspec
import numpy as np

from submodels.manifest import Manifest, ModelShape, WireRotation, WrittenTensor
from submodels.tensors.tensor_layout import Part, placements

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


_OF_THE_ENDS = frozenset({"vocab_size", "tied_embeddings", "max_context_tokens", "num_layers"})
"""Fields of a shape that say nothing of a middle layer: a link agrees on the context by itself."""

_OF_THE_ENDS_DESCRIBED = frozenset({"embedding_scale", "logit_scale", "logit_softcap"})


def middle_fingerprint_of(manifest: Manifest) -> str:
    """SHA-256 (hex) over the middle layers alone: what a cloud computes with, and nothing else.

    Any manifest gives it, of either side, since both list the tensors of both. Two models have the
    same one where their middle layers are the same numbers in the same formats at the same places,
    computed in the same way, in the same basis of hidden states. Vocabulary, embedding, head,
    tokenizer and the layers on the device count for nothing.

    Source: docs/decisions/0035-one-middle-many-ends.md.
    """
    first = manifest.num_input_layers
    middle = range(first, first + manifest.num_middle_layers)
    fields = middle_fields(manifest.shape, manifest.rope_parameters, middle, manifest.wire_rotation)
    tensors = {name: (t.dtype, t.sha256) for name, t in middle_tensors(manifest).items()}
    digest = hashlib.sha256(msgspec.json.encode(fields, order="sorted"))
    digest.update(msgspec.json.encode(tensors, order="sorted"))
    return digest.hexdigest()


def middle_fields(
    shape: ModelShape,
    rope_parameters: RopeParameters,
    middle: range,
    rotation: WireRotation | None,
) -> dict[str, object]:
    """What of a model decides how its middle layers compute, beside their tensors.

    Lists with an entry for each layer are cut to the middle's, and rotary embeddings are told by
    their parameters.
    """
    layers = slice(middle.start, middle.stop)
    fields = {k: v for k, v in msgspec.to_builtins(shape).items() if k not in _OF_THE_ENDS}
    described = {
        name: value
        for name, value in msgspec.to_builtins(shape.described).items()
        if name not in _OF_THE_ENDS_DESCRIBED and name != "other_ropes"
    }
    if shape.described.layer_ropes:
        described["layer_ropes"] = shape.described.layer_ropes[layers]
    if shape.described.layer_heads:
        described["layer_heads"] = shape.described.layer_heads[layers]
    fields |= {
        "first_layer": middle.start,
        "num_middle_layers": len(middle),
        # Norms are computed in float32, and a GGUF file has it as such.
        "rms_norm_eps": float(np.float32(shape.rms_norm_eps)),
        "sliding_windows": shape.sliding_windows[layers],
        "rope": dict(rope_parameters),
        "description": described,
        "rotation": msgspec.to_builtins(rotation),
    }
    return fields


def middle_tensors(manifest: Manifest) -> dict[str, WrittenTensor]:
    """The tensors of the middle layers by their names in the checkpoint."""
    placed = placements(manifest.shape, manifest.num_input_layers, manifest.num_output_layers)
    return {
        placement.source: manifest.tensors[placement.source]
        for placement in placed
        if placement.part is Part.MIDDLE and placement.source in manifest.tensors
    }
