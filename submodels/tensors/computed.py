"""Stored tensors of a layer as engines compute with them.

Engines know one way to turn heads, the first half with the second, and gains of norms as they are.
What a description says otherwise is brought into that form when a tensor is loaded, so that no step
pays for it: a score is the same whatever the order in a head, as long as queries and keys agree.
"""

from typing import Any

from submodels.manifest import ModelShape

_TURNED = ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.q_norm.", "self_attn.k_norm.")


def head_order(shape: ModelShape) -> list[int] | None:
    """Which stored number of a head comes where, so that pairs lie half a head apart.

    What is not turned lies behind each half, where frequencies are zero. None: as stored.
    """
    described, head_dim = shape.described, shape.head_dim
    rotary_dim = described.rotary_dim or head_dim
    if rotary_dim == head_dim and not described.is_interleaved:
        return None
    half = rotary_dim // 2
    first, second = range(half), range(half, rotary_dim)
    if described.is_interleaved:
        first, second = range(0, rotary_dim, 2), range(1, rotary_dim, 2)
    rest = range(rotary_dim, head_dim)
    middle = len(rest) // 2
    return [*first, *rest[:middle], *second, *rest[middle:]]


def is_norm(suffix: str) -> bool:
    """Whether a tensor of a layer is the gain of a norm."""
    return suffix.endswith("norm.weight")


def as_computed(tensor: Any, suffix: str, shape: ModelShape) -> Any:
    """A tensor of torch or numpy, named `suffix` in its layer, as engines compute with it.

    `shape` is that of the layer (`ModelShape.of_layer`).
    """
    order = head_order(shape)
    if order is not None and suffix.startswith(_TURNED):
        heads = tensor.reshape(-1, shape.head_dim, *tensor.shape[1:])
        tensor = heads[:, order].reshape(tensor.shape)
    offset = shape.described.norm_offset
    return tensor + offset if offset and is_norm(suffix) else tensor
