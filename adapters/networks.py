"""Four adapters behind one interface: what the middle layers would say, from shallow rows.

An estimate has the place and scale of a deep row: the output submodel (output layers, final norm,
LM head) follows it, frozen. With output layers on the device the scale matters, since they add to
it. Shapes: `B` sequences of `T` rows, `H` hidden, `S` cached keys.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.block_parts import SequelHead, layer_over_blocks
from adapters.network_parts import GatedMlp, RmsNorm, SelfAttention
from adapters.storage import (
    BLOCK_SIZE,
    SEQUEL,
    UNLAYERED,
    AdapterError,
    Kind,
    StoredAdapter,
    weight_shapes,
)
from submodels.bundle.layer_weights import GatedWeights
from submodels.bundle.layers import Attend, DecoderLayer, LayerCache, over_cache
from submodels.manifest import LLAMA, ModelShape
from submodels.tensors.tensor_layout import layer_name

_FIRST = "first."
"""How the names of a block adapter's first layer begin."""


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
        """Estimates `[B, T, H]` for whole sequences of shallow rows `[B, T, H]` from position 0."""
        return self.finish(rows + self.self_attn(self.input_layernorm(rows)))

    def extend(self, rows: Tensor, position: int, cache: LayerCache) -> Tensor:
        """Estimates `[T, H]` for shallow rows `[T, H]` of one sequence at `position`.

        A position below the cached length truncates the cache first.

        Raises:
            ValueError: a position beyond what the cache holds.
        """
        positions = torch.arange(position, position + len(rows), device=rows.device)
        return self.through(rows, positions, over_cache(cache, position, None))

    def through(self, rows: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Estimates `[..., H]` of what enters the layer at positions `[...]`.

        `attend` says what these rows see. A fed adapter's are those that `feed` gives.
        """
        normed = self.input_layernorm(rows)
        return self.finish(rows + self.self_attn.through(normed, positions, attend))

    def finish(self, rows: Tensor) -> Tensor:
        """Estimates of rows that attention has been added to."""
        closed: Tensor = self.closing_norm(rows)
        return closed


class LayerAdapter(AttentionAdapter):
    """A full decoder layer: attention and gated MLP, each behind a norm."""

    def __init__(self, shape: ModelShape, closing_norm: bool) -> None:
        super().__init__(shape, closing_norm)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = GatedMlp(shape)

    def finish(self, rows: Tensor) -> Tensor:
        """Estimates of rows that attention has been added to."""
        return super().finish(rows + self.mlp(self.post_attention_layernorm(rows)))


class FedAdapter(LayerAdapter):
    """A decoder layer that is also told what the whole model made of the position before.

    The row of position t is made of its shallow row s_t and the deep row d_{t-1}:

        h_t = s_t + fc(concat(norm_shallow(s_t), norm_deep(d_{t-1})))

    Where d_{t-1} is not known, the learned vector `absent` stands for the normed deep row. Without
    `previous` it is known nowhere. Source: EAGLE (arXiv:2401.15077), whose rows are embeddings; the
    two norms are EAGLE-3.1's.
    """

    def __init__(self, shape: ModelShape, closing_norm: bool) -> None:
        super().__init__(shape, closing_norm)
        self.norm_shallow = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.norm_deep = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.fc = nn.Linear(2 * shape.hidden_size, shape.hidden_size, bias=False)
        self.absent = nn.Parameter(torch.zeros(shape.hidden_size))
        # A new adapter is the layer it was started as.
        nn.init.zeros_(self.fc.weight)

    def forward(
        self, rows: Tensor, previous: Tensor | None = None, is_known: Tensor | None = None
    ) -> Tensor:
        """Estimates `[B, T, H]` for whole sequences of shallow rows `[B, T, H]` from position 0.

        Args:
            rows: The shallow rows.
            previous: Deep rows `[B, T, H]` of the positions before: row t is d_{t-1}.
            is_known: Which of these are known, boolean `[B, T]`; the others are not looked at. All
                but the first when None.
        """
        return super().forward(self.feed(rows, previous, is_known))

    def extend(
        self,
        rows: Tensor,
        position: int,
        cache: LayerCache,
        previous: Tensor | None = None,
        is_known: Tensor | None = None,
    ) -> Tensor:
        """Estimates `[T, H]` of one sequence as of other adapters; rest as in `forward`."""
        if is_known is None and previous is not None:
            is_known = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        return super().extend(self.feed(rows, previous, is_known), position, cache)

    def feed(
        self, rows: Tensor, previous: Tensor | None = None, is_known: Tensor | None = None
    ) -> Tensor:
        """The rows h `[..., T, H]` that enter the layer; arguments as in `forward`."""
        update: Tensor = self.fc(self.feed_parts(rows, previous, is_known))
        return rows + update

    def feed_parts(
        self, rows: Tensor, previous: Tensor | None = None, is_known: Tensor | None = None
    ) -> Tensor:
        """What the feed's matrix reads, `[..., T, 2H]`; arguments as in `forward`."""
        if previous is None:
            normed = self.absent.expand_as(rows)
        else:
            if is_known is None:
                is_known = torch.arange(rows.shape[-2], device=rows.device) > 0
            normed = torch.where(is_known[..., None], self.norm_deep(previous), self.absent)
        return torch.cat((self.norm_shallow(rows), normed), dim=-1)


class BlockAdapter(FedAdapter):
    """A fed adapter that drafts a whole block of `k` tokens in one pass of two layers.

    Behind the row of position n, made as a fed adapter makes it, come `k - 1` rows that stand for
    tokens nobody knows yet. The j-th of them is made like row n, of d_{n-1} and of

        s_n * carry_j + mask_j

    in the place of a shallow row, and has position n + j. Layer by layer these rows see the text up
    to n and those before them in their own block; what they leave is an estimate of d_{n+j}. The
    tokens of a block are fitted to each other by `sequel`.

    Sources: DFlash (blocks of mask rows in one pass) and DSpark (a small sequential head over
    them), both as told in docs/adapters.md; the feed is that of `FedAdapter`.
    """

    def __init__(self, shape: ModelShape, closing_norm: bool, block_size: int) -> None:
        super().__init__(shape, closing_norm)
        self.first = LayerAdapter(shape, closing_norm=False)
        """The layer before the one that a fed adapter has."""
        self.sequel = SequelHead(shape)
        self.mask = nn.Parameter(torch.zeros(block_size - 1, shape.hidden_size))
        self.carry = nn.Parameter(torch.ones(block_size - 1, shape.hidden_size))

    @property
    def block_size(self) -> int:
        """Tokens that one pass drafts at most."""
        return len(self.mask) + 1

    def forward(
        self, rows: Tensor, previous: Tensor | None = None, is_known: Tensor | None = None
    ) -> Tensor:
        """Estimates of the text's own rows, the first places of their blocks."""
        return LayerAdapter.forward(self, self.first(self.feed(rows, previous, is_known)))

    def forward_blocks(
        self, rows: Tensor, previous: Tensor, is_known: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Estimates `[B, T, H]` of whole sequences, and of blocks behind some of their positions.

        Args:
            rows, previous, is_known: As in `FedAdapter.forward`.
            anchors: Those positions, `[B, A]`.

        Returns:
            Both; the second `[B, A, k - 1, H]` has the places of each block behind its first.
        """
        each = torch.arange(len(rows), device=rows.device)[:, None]
        text = self.feed(rows, previous, is_known)
        tails = self.tail(rows[each, anchors])
        known = is_known[each, anchors][..., None].expand(tails.shape[:-1])
        tails = self.feed(tails, previous[each, anchors][:, :, None].expand_as(tails), known)
        for layer in (self.first, self):
            text, tails = layer_over_blocks(layer, text, tails, anchors)
        return text, tails

    def tail(self, shallow: Tensor) -> Tensor:
        """What stands for shallow rows `[..., k - 1, H]` behind shallow rows `[..., H]`."""
        return shallow[..., None, :] * self.carry + self.mask

    def extend_rows(self, fed: Tensor, position: int, caches: Sequence[LayerCache]) -> Tensor:
        """Estimates `[T, H]` of rows `[T, 2 H + 1]` of one sequence at `position`.

        A row is a shallow row or what stands for one, the deep row of the position before, and 1
        where that is known, else 0. `caches` are those of the two layers.
        """
        hidden = self.mask.shape[-1]
        rows = self.feed(fed[:, :hidden], fed[:, hidden:-1], fed[:, -1] > 0)
        rows = self.first.extend(rows, position, caches[0])
        return LayerAdapter.extend(self, rows, position, caches[1])


AdapterNetwork = AttentionAdapter | LayerAdapter | FedAdapter | BlockAdapter
_NETWORKS: Mapping[Kind, type[AttentionAdapter | LayerAdapter]] = MappingProxyType(
    {"attention": AttentionAdapter, "layer": LayerAdapter, "fed": FedAdapter}
)


def build_network(
    kind: Kind, shape: ModelShape, closing_norm: bool, seed: int = 0, block_size: int = BLOCK_SIZE
) -> AdapterNetwork:
    """A new adapter for rows of `shape` (see `adapter_shape`), the same for the same seed.

    `block_size` is how many tokens a block adapter drafts in one pass.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "block":
            return BlockAdapter(shape, closing_norm, block_size)
        return _NETWORKS[kind](shape, closing_norm)


def start_as(network: AdapterNetwork, layer: DecoderLayer) -> None:
    """Give a new adapter a decoder layer's weights, as far as it has the parts.

    Measured to train better than from nothing (docs/adapters.md). A layer with biases or q/k norms,
    or one that is not described as Llama's is, would be something else; then the adapter stays.
    """
    weights, shape = layer.weights, layer.shape
    feed_forward = weights.feed_forward
    if shape.qkv_bias or shape.output_bias or shape.mlp_bias or shape.qk_norm:
        return
    if not isinstance(feed_forward, GatedWeights) or shape.described != LLAMA:
        return
    assert weights.input_norm is not None, "as Llama"
    assert weights.post_attention_norm is not None, "as Llama"
    assert weights.v is not None, "as Llama"
    named = {
        "input_layernorm": weights.input_norm,
        "self_attn.q_proj": weights.q.weight,
        "self_attn.k_proj": weights.k.weight,
        "self_attn.v_proj": weights.v.weight,
        "self_attn.o_proj": weights.o.weight,
        "post_attention_layernorm": weights.post_attention_norm,
        "mlp.gate_proj": feed_forward.gate.weight,
        "mlp.up_proj": feed_forward.up.weight,
        "mlp.down_proj": feed_forward.down.weight,
    }
    own = network.state_dict()
    copied = {f"{name}.weight": tensor for name, tensor in named.items()}
    network.load_state_dict(own | {name: t for name, t in copied.items() if name in own})
    if isinstance(network, BlockAdapter):
        start_as(network.first, layer)
        # Of its two layers the first one adds nothing yet, so that both are together the layer.
        nn.init.zeros_(network.first.self_attn.o_proj.weight)
        nn.init.zeros_(network.first.mlp.down_proj.weight)


def network_tensors(network: AdapterNetwork) -> Mapping[str, NDArray[np.float32]]:
    """The adapter's weights under the names of `adapter.safetensors`."""
    is_block = isinstance(network, BlockAdapter)
    return {
        _file_name(name, is_block): tensor.detach().cpu().numpy().astype(np.float32)
        for name, tensor in network.state_dict().items()
    }


def load_network(stored: StoredAdapter, device: torch.device | str = "cpu") -> AdapterNetwork:
    """A stored adapter, ready to run.

    Raises:
        AdapterError: it is a published head, which `load_published_head` loads.
    """
    card = stored.card
    if card.head is not None:
        raise AdapterError(
            f"{stored.path}: expected an adapter that was trained here, got a published head "
            f"({card.kind})"
        )
    file = stored.tensors()
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.array(file.read(name))) for name in weight_shapes(card)
    }
    network = build_network(
        card.kind, card.shape, card.closing_norm, block_size=card.max_draft_tokens
    )
    named = {_file_name(name, card.kind == "block"): name for name in network.state_dict()}
    network.load_state_dict({named[name]: tensor for name, tensor in tensors.items()})
    return network.to(device).eval()


def _closing_norm(shape: ModelShape, wanted: bool) -> nn.Module:
    return RmsNorm(shape.hidden_size, shape.rms_norm_eps) if wanted else nn.Identity()


def _file_name(name: str, is_block: bool) -> str:
    """The name of a module's tensor in a file."""
    if name in UNLAYERED or name.startswith(SEQUEL):
        return name
    if name.startswith(_FIRST):
        return layer_name(0, name.removeprefix(_FIRST))
    return layer_name(1 if is_block else 0, name)
