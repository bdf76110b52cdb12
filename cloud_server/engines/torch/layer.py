"""One decoder layer over the concatenated rows of a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cloud_server.engines.torch.attention import Attention, Block, HeadLayout
from cloud_server.engines.torch.kv_slab import KvSlab
from cloud_server.engines.torch.linear import Linear, make_linear
from submodels.bundle.layers import ACTIVATIONS
from submodels.errors import UnsupportedModelError
from submodels.manifest import ModelShape, Rope


@dataclass(frozen=True, slots=True)
class Span:
    """The next `num_rows` rows of a step belong to one sequence, from `position` on.

    `blocks` are its attention blocks by window, for the layers' different windows.
    """

    slab: KvSlab
    num_rows: int
    position: int
    blocks: Mapping[int | None, list[Block]]


@dataclass(frozen=True, slots=True)
class Ragged:
    """What all layers share in one step.

    `rotations` are cosines and sines `[T, Hq + KV, D]`, queries first, of each of the engine's
    `Turn`s; the queries' part carries the softmax scale, the sines' first half its minus sign.
    """

    spans: list[Span]
    rotations: Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """How a layer is computed; `shape` is its own (`ModelShape.of_layer`)."""

    shape: ModelShape
    attention: Attention
    packed: bool

    @property
    def heads(self) -> HeadLayout:
        """Query heads per KV head, and KV heads."""
        num_kv_heads = self.shape.num_key_value_heads
        return HeadLayout(num_kv_heads, self.shape.num_attention_heads // num_kv_heads)


@dataclass(frozen=True, slots=True)
class Turn:
    """By which of the model's rotary embeddings heads are turned, and what heads these are."""

    rope: Rope
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    """Of scores."""


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """Which of the engine's layers one is, what its queries see, and by what they are turned.

    `turn` is the number of one of the engine's `Turn`s.
    """

    index: int
    window: int | None
    turn: int = 0


class MiddleLayer:
    """Pre-norm attention and gated MLP, as in Llama, Mistral, Qwen2 and Qwen3.

    `tensors` holds this layer's weights by their names below `model.layers.N.`; it may be dropped
    afterwards. Query, key and value weights become one matrix, and so do gate and up.

    Raises:
        UnsupportedModelError: an activation that is not known here.
    """

    def __init__(
        self,
        place: LayerPlace,
        tensors: Mapping[str, torch.Tensor],
        settings: LayerSettings,
    ) -> None:
        shape = settings.shape
        if shape.hidden_act not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UnsupportedModelError(f"activation {shape.hidden_act!r}; known are {known}")
        self.hidden_size = shape.hidden_size
        self._index = place.index
        self._window = place.window
        self._turn = place.turn
        self._eps = shape.rms_norm_eps
        self._activation = ACTIVATIONS[shape.hidden_act]
        self._attention = settings.attention
        self._heads = settings.heads
        self._head_dim = shape.head_dim
        self._num_query_heads = shape.num_attention_heads
        self._num_rotated_heads = shape.num_attention_heads + shape.num_key_value_heads
        attention = [
            f"self_attn.{name}_proj"
            for name in ("qk" if shape.described.keys_are_values else "qkv")
        ]
        self._qkv = joined(tensors, attention, settings.packed)
        self._output = joined(tensors, ["self_attn.o_proj"], settings.packed)
        self._load_norms(tensors, shape)
        self._load_feed_forward(tensors, settings)

    def _load_norms(self, tensors: Mapping[str, torch.Tensor], shape: ModelShape) -> None:
        self._head_norm = _head_norm(tensors, shape) if shape.qk_norm else None
        self._input_norm = tensors["input_layernorm.weight"]
        self._mlp_norm = tensors["post_attention_layernorm.weight"]

    def _load_feed_forward(
        self, tensors: Mapping[str, torch.Tensor], settings: LayerSettings
    ) -> None:
        self._gate_up = joined(tensors, ["mlp.gate_proj", "mlp.up_proj"], settings.packed)
        self._down = joined(tensors, ["mlp.down_proj"], settings.packed)

    def forward(self, rows: torch.Tensor, ragged: Ragged) -> torch.Tensor:
        """The residual stream `[T, H]` after this layer; writes the new keys and values."""
        normed = F.rms_norm(rows, self._input_norm.shape, self._input_norm, self._eps)
        rows = rows + self._output(self._attend(self._qkv(normed), ragged))
        normed = F.rms_norm(rows, self._mlp_norm.shape, self._mlp_norm, self._eps)
        gate, up = self._gate_up(normed).chunk(2, dim=-1)
        return rows + self._down(self._activation(gate).mul_(up))

    def _attend(self, qkv: torch.Tensor, ragged: Ragged) -> torch.Tensor:
        num_rows = qkv.shape[0]
        by_head = qkv.view(num_rows, -1, self._head_dim)
        rotated = self._rotate(by_head[:, : self._num_rotated_heads], ragged)
        sizes = [span.num_rows for span in ragged.spans]
        keys = torch.split(rotated[:, self._num_query_heads :], sizes)
        values = torch.split(self._values(by_head), sizes)
        outputs = []
        queries = self._fold(rotated[:, : self._num_query_heads], sizes)
        for span, *rows in zip(ragged.spans, queries, keys, values, strict=True):
            outputs += self._attend_span(span, *rows)
        folded = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        unfolded = folded.view(self._heads.num_kv_heads, num_rows, -1).transpose(0, 1)
        return unfolded.reshape(num_rows, -1)

    def _values(self, by_head: torch.Tensor) -> torch.Tensor:
        """Values `[T, KV, D]` of what was projected, queries and keys first."""
        return by_head[:, self._num_rotated_heads :]

    def _attend_span(
        self, span: Span, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> list[torch.Tensor]:
        """A sequence's folded outputs `[KV, R * G, D]`, block by block."""
        cached = span.slab.write(self._index, span.position, keys, values)
        blocks = span.blocks[self._window]
        if len(blocks) == 1:
            return [self._attention.attend(queries, *cached, blocks[0])]
        group = self._heads.group_size
        sizes = [(block.end_row - block.first_row) * group for block in blocks]
        return [
            self._attention.attend(part, *cached, block)
            for part, block in zip(torch.split(queries, sizes, dim=1), blocks, strict=True)
        ]

    def _rotate(self, heads: torch.Tensor, ragged: Ragged) -> torch.Tensor:
        """Rotary embedding over queries and keys together `[T, Hq + KV, D]`."""
        if self._head_norm is not None:
            heads = F.rms_norm(heads, (self._head_dim,), None, self._eps) * self._head_norm
        cos, sin = ragged.rotations[self._turn]
        half = self._head_dim // 2
        swapped = torch.cat((heads[..., half:], heads[..., :half]), dim=-1)
        return (heads * cos).addcmul_(swapped, sin)

    def _fold(self, queries: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, ...]:
        """`[T, Hq, D]` to one `[KV, size * G, D]` per sequence."""
        heads = self._heads
        grouped = queries.view(queries.shape[0], heads.num_kv_heads, -1).transpose(0, 1)
        folded = grouped.reshape(heads.num_kv_heads, -1, self._head_dim)
        return torch.split(folded, [size * heads.group_size for size in sizes], dim=1)


def joined(tensors: Mapping[str, torch.Tensor], names: list[str], packed: bool) -> Linear:
    """One linear layer of several stacked ones; biases are joined where they exist."""
    weights = [tensors[f"{name}.weight"] for name in names]
    biases = [
        tensors[f"{name}.bias"] if f"{name}.bias" in tensors else weight.new_zeros(weight.shape[0])
        for name, weight in zip(names, weights, strict=True)
    ]
    has_bias = any(f"{name}.bias" in tensors for name in names)
    return make_linear(torch.cat(weights), torch.cat(biases) if has_bias else None, packed)


def _head_norm(tensors: Mapping[str, torch.Tensor], shape: ModelShape) -> torch.Tensor:
    """Per-head norm weights `[Hq + KV, D]`: queries share one, keys the other."""
    query = tensors["self_attn.q_norm.weight"].expand(shape.num_attention_heads, -1)
    key = tensors["self_attn.k_norm.weight"].expand(shape.num_key_value_heads, -1)
    return torch.cat((query, key))
