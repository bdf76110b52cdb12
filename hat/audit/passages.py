"""How rows travel, and what a cloud has of them: the link's own codecs, and a rotation undone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hat.codec_eval.codecs import RowCoder, passage
from submodels.bundle.layer_weights import GatedWeights
from submodels.bundle.layers import DecoderLayer
from submodels.calibration.scales import channel_scales, largest_channels
from submodels.rotation.rotation import Rotation, seeded_rotation
from wire.coding.exact import ExactCoder
from wire.coding.integers import INT8, IntegerCoder
from wire.coding.tables import centres_of
from wire.messages import Dtype

Codec = Literal["exact", "int8", "int8 rotated"]
CODECS: Final[tuple[Codec, ...]] = get_args(Codec)
NUM_KEPT: Final = 6
"""Channels that int8 sends as they are beside the integers; none of rotated states."""

Passage = Callable[[Tensor], Tensor]
"""Rows `[T, H]` as the device sends them, to what whoever reads the cloud's memory has."""


@dataclass(frozen=True, slots=True)
class FoundRotation:
    """A rotation, and what the served weights give away of it."""

    rotation: Rotation
    solved: Tensor
    """`[H, H]`: what one least-squares solve of served weights against public ones finds."""
    error: float
    """Its distance from the true one, as a part of that one's size."""


@dataclass(frozen=True, slots=True)
class Link:
    """How rows of one depth travel."""

    dtype: Dtype
    typical: Tensor
    """Rows `[T, H]` of that depth, as a split measures them for its codecs."""
    is_rotated: bool
    """Whether the bundles are, so that no channel stands out."""
    found: FoundRotation | None
    """None: the layers of this model cannot be rotated."""


def passage_of(codec: Codec, link: Link) -> Passage | None:
    """What becomes of rows in a codec; None where this model has none of that name."""
    typical = link.typical.numpy(force=True)
    hidden_size = typical.shape[1]
    if codec == "exact":
        scales = channel_scales(typical) or (0.0,) * hidden_size
        return _through(ExactCoder(link.dtype, centres_of(scales, link.dtype)), link.dtype)
    if codec == "int8":
        kept = [] if link.is_rotated else sorted(largest_channels(typical)[:NUM_KEPT])
        return _through(IntegerCoder(INT8, link.dtype, hidden_size, kept), link.dtype)
    found = link.found
    if found is None:
        return None
    plain = _through(IntegerCoder(INT8, link.dtype, hidden_size), link.dtype)
    return lambda rows: plain(_turned(rows, found.rotation)) @ found.solved.T


def find_rotation(layer: DecoderLayer, seed: int) -> FoundRotation | None:
    """What somebody with the public weights finds of a rotation that is in the served ones.

    `layer` is one of the middle, as it is public. Served are its matrices that read the stream,
    with the norm's gain and the rotation in them. None: a layer that is not of that kind.
    """
    feed_forward, norm = layer.weights.feed_forward, layer.weights.post_attention_norm
    if not isinstance(feed_forward, GatedWeights) or norm is None:
        return None
    public = torch.cat((feed_forward.gate.weight, feed_forward.up.weight)) * norm
    rotation = seeded_rotation(public.shape[1], seed)
    served = _turned(public, rotation)
    # Gains of channels that are large are small, by three orders: solved in float64.
    solved = torch.linalg.lstsq(public.double(), served.double()).solution.float()
    true = _turned(torch.eye(public.shape[1]), rotation)
    return FoundRotation(rotation, solved, float((solved - true).norm() / true.norm()))


def _through(coder: RowCoder, dtype: Dtype) -> Passage:
    passed = passage(coder, dtype)
    return lambda rows: torch.from_numpy(passed(rows.numpy(force=True)).rows)


def _turned(rows: Tensor, rotation: Rotation) -> Tensor:
    return torch.from_numpy(rotation.turn(rows.numpy(force=True)).astype(np.float32))
