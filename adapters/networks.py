"""Two adapters behind one interface: what the middle layers would say, estimated from shallow rows.

An estimate has the place and scale of a deep row: the output submodel (output layers, final norm,
LM head) follows it, frozen. With output layers on the device the scale matters, since they add to
it. Shapes: `B` sequences of `T` rows, `H` hidden, `S` cached keys.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.storage import CLOSING_NORM, Kind, StoredAdapter, tensor_shapes
from submodels.bundle.layers import (
    ACTIVATIONS,
    DecoderLayer,
    LayerCache,
    attend,
    rms_norm,
    rope_table,
    rotate,
    visible_keys,
)
from submodels.manifest import ModelShape
from submodels.tensors.tensor_layout import layer_name

_LAYER_PREFIX = layer_name(0, "")
# On a CPU, rows in blocks against the keys they can see take 0.57 of the time that torch takes for
# all at once, forward and backward (4 windows of 480 rows, 8 heads of 8).
_BLOCK_ROWS = 128


class Adapter(Protocol):
    """A drafting adapter in torch; rows in and out are float32."""

    def forward(self, rows: Tensor) -> Tensor:
        """Estimates `[B, T, H]` for whole sequences of shallow rows `[B, T, H]` from position 0."""
        ...

    def extend(self, rows: Tensor, position: int, cache: LayerCache) -> Tensor:
        """Estimates `[T, H]` for shallow rows `[T, H]` of one sequence at `position`.

        A position below the cached length truncates the cache first.

        Raises:
            ValueError: a position beyond what the cache holds.
        """
        ...


class RmsNorm(nn.Module):
    """Root mean square norm over the last dimension, with a learned weight `[H]`."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._eps = eps

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of any leading shape, normed."""
        return rms_norm(rows, self.weight, self._eps)


class SelfAttention(nn.Module):
    """Causal grouped-query attention with rotary positions, no biases."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self._shape = shape
        hidden, head_dim = shape.hidden_size, shape.head_dim
        queries, keys = shape.num_attention_heads * head_dim, shape.num_key_value_heads * head_dim
        self.q_proj = nn.Linear(hidden, queries, bias=False)
        self.k_proj = nn.Linear(hidden, keys, bias=False)
        self.v_proj = nn.Linear(hidden, keys, bias=False)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        # A new adapter passes its rows through, which is early exit; training moves on from there.
        nn.init.zeros_(self.o_proj.weight)

    def forward(self, normed: Tensor) -> Tensor:
        """What to add to rows `[B, T, H]` of whole sequences, given the same rows normed."""
        positions = torch.arange(normed.shape[1], device=normed.device)
        queries, keys, values = (p.transpose(1, 2) for p in self._project(normed, positions))
        mixed = _causal_attention(queries, keys, values)
        update: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return update

    def extend(self, normed: Tensor, position: int, cache: LayerCache) -> Tensor:
        """What to add to rows `[T, H]` of one sequence at `position`."""
        positions = torch.arange(position, position + normed.shape[0], device=normed.device)
        queries, keys, values = self._project(normed, positions)
        all_keys, all_values = cache.write(position, keys, values)
        grouped = queries.view(
            len(queries), self._shape.num_key_value_heads, -1, self._shape.head_dim
        )
        visible = visible_keys(positions, all_keys.shape[0], None)
        update: Tensor = self.o_proj(attend(grouped, all_keys, all_values, visible).flatten(1))
        return update

    def _project(self, normed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[..., T, heads, D]`, the first two turned."""
        cos, sin = rope_table(self._shape.rope, positions, normed.dtype)
        queries, keys, values = (
            linear(normed).view(*normed.shape[:-1], -1, self._shape.head_dim)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotate(queries, cos, sin), rotate(keys, cos, sin), values


class GatedMlp(nn.Module):
    """The gated feed-forward half of a decoder layer, no biases."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        hidden, inner = shape.hidden_size, shape.intermediate_size
        self._activation = ACTIVATIONS[shape.hidden_act]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)
        nn.init.zeros_(self.down_proj.weight)

    def forward(self, normed: Tensor) -> Tensor:
        """What to add to rows of any leading shape, given the same rows normed."""
        update: Tensor = self.down_proj(
            self._activation(self.gate_proj(normed)) * self.up_proj(normed)
        )
        return update


class AttentionAdapter(nn.Module):
    """The paper's adapter: `x + Attn(RMSNorm(x))`, then a closing norm.

    Source: HAT (arXiv:2503.18989), whose adapter is Kangaroo's (arXiv:2404.18911): four attention
    matrices and two norms.
    """

    def __init__(self, shape: ModelShape, closing_norm: bool) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = SelfAttention(shape)
        self.closing_norm = _closing_norm(shape, closing_norm)

    def forward(self, rows: Tensor) -> Tensor:
        """See `Adapter.forward`."""
        rows = rows + self.self_attn(self.input_layernorm(rows))
        closed: Tensor = self.closing_norm(rows)
        return closed

    def extend(self, rows: Tensor, position: int, cache: LayerCache) -> Tensor:
        """See `Adapter.extend`."""
        rows = rows + self.self_attn.extend(self.input_layernorm(rows), position, cache)
        closed: Tensor = self.closing_norm(rows)
        return closed


class LayerAdapter(nn.Module):
    """A full decoder layer: attention and gated MLP, each behind a norm."""

    def __init__(self, shape: ModelShape, closing_norm: bool) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = SelfAttention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = GatedMlp(shape)
        self.closing_norm = _closing_norm(shape, closing_norm)

    def forward(self, rows: Tensor) -> Tensor:
        """See `Adapter.forward`."""
        return self._finish(rows + self.self_attn(self.input_layernorm(rows)))

    def extend(self, rows: Tensor, position: int, cache: LayerCache) -> Tensor:
        """See `Adapter.extend`."""
        update = self.self_attn.extend(self.input_layernorm(rows), position, cache)
        return self._finish(rows + update)

    def _finish(self, rows: Tensor) -> Tensor:
        rows = rows + self.mlp(self.post_attention_layernorm(rows))
        closed: Tensor = self.closing_norm(rows)
        return closed


AdapterNetwork = AttentionAdapter | LayerAdapter


def build_network(
    kind: Kind, shape: ModelShape, closing_norm: bool, seed: int = 0
) -> AdapterNetwork:
    """A new adapter for rows of `shape` (see `adapter_shape`), the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "attention":
            return AttentionAdapter(shape, closing_norm)
        return LayerAdapter(shape, closing_norm)


def start_as(network: AdapterNetwork, layer: DecoderLayer) -> None:
    """Give a new adapter a decoder layer's weights, as far as it has the parts.

    Measured to train better than from nothing (docs/adapters.md). A layer with biases or q/k norms
    is something else without them; then the adapter stays as it is.
    """
    weights, shape = layer.weights, layer.shape
    if shape.qkv_bias or shape.output_bias or shape.mlp_bias or shape.qk_norm:
        return
    named = {
        "input_layernorm": weights.input_norm,
        "self_attn.q_proj": weights.q.weight,
        "self_attn.k_proj": weights.k.weight,
        "self_attn.v_proj": weights.v.weight,
        "self_attn.o_proj": weights.o.weight,
        "post_attention_layernorm": weights.post_attention_norm,
        "mlp.gate_proj": weights.gate.weight,
        "mlp.up_proj": weights.up.weight,
        "mlp.down_proj": weights.down.weight,
    }
    own = network.state_dict()
    copied = {f"{name}.weight": tensor for name, tensor in named.items()}
    network.load_state_dict(own | {name: t for name, t in copied.items() if name in own})


def network_tensors(network: AdapterNetwork) -> Mapping[str, NDArray[np.float32]]:
    """The adapter's weights under the names of `adapter.safetensors`."""
    return {
        _file_name(name): tensor.detach().cpu().numpy().astype(np.float32)
        for name, tensor in network.state_dict().items()
    }


def load_network(stored: StoredAdapter, device: torch.device | str = "cpu") -> AdapterNetwork:
    """A stored adapter, ready to run."""
    card = stored.card
    file = stored.tensors()
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.array(file.read(name)))
        for name in tensor_shapes(card.kind, card.shape, card.closing_norm)
    }
    network = build_network(card.kind, card.shape, card.closing_norm)
    network.load_state_dict({_module_name(name): tensor for name, tensor in tensors.items()})
    return network.to(device).eval()


def _causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of `[B, heads, T, D]` over `[B, KV, T, D]` of the same positions."""
    attention = nn.functional.scaled_dot_product_attention
    if queries.is_cuda:
        return attention(queries, keys, values, is_causal=True, enable_gqa=True)
    num_rows = queries.shape[2]
    blocks = []
    for start in range(0, num_rows, _BLOCK_ROWS):
        end = min(start + _BLOCK_ROWS, num_rows)
        seen = torch.ones(end - start, end, dtype=torch.bool).tril(start)
        some = (queries[:, :, start:end], keys[:, :, :end], values[:, :, :end])
        blocks.append(attention(*some, attn_mask=seen, enable_gqa=True))
    return torch.cat(blocks, dim=2)


def _closing_norm(shape: ModelShape, wanted: bool) -> nn.Module:
    return RmsNorm(shape.hidden_size, shape.rms_norm_eps) if wanted else nn.Identity()


def _file_name(name: str) -> str:
    return name if name == CLOSING_NORM else layer_name(0, name)


def _module_name(name: str) -> str:
    return name.removeprefix(_LAYER_PREFIX)
