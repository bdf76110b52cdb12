"""Published drafting heads in torch: EAGLE-1 and 2, which have one network, and EAGLE-3.

Both read tokens and features of the model. The row of position t is made of the embedding of the
token x_t and of the feature f_{t-1} of the position before, and estimates f_t. Positions without a
feature are left out: a head attends to those that have one, numbered as they follow each other,
since rotary positions tell distances alone. Shapes: `B` sequences of `T` rows, `H` hidden, `S`
cached keys, `N` tokens that can be drafted.

Sources: EAGLE (arXiv:2401.15077), EAGLE-3 (arXiv:2503.01840), and the settings of the heads that
their authors, vLLM's and SGLang's people publish.
"""

import numpy as np
import torch
from torch import Tensor, nn

from adapters.network_parts import GatedMlp, RmsNorm, SelfAttention
from adapters.storage import AdapterCard, StoredAdapter, weight_shapes
from submodels.bundle.layers import Attend, LayerCache, over_cache
from submodels.manifest import ModelShape
from submodels.tensors.tensor_layout import layer_name


class EagleHead(nn.Module):
    """EAGLE-1 and 2: `fc(concat(embedding, feature))`, then a layer with no norm before attention.

    A feature is the model's last row behind its final norm; the model's LM head reads an estimate
    as it is.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * shape.hidden_size, shape.hidden_size)
        self.self_attn = _attention(shape, shape.hidden_size)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = GatedMlp(shape)

    def through(
        self, embedded: Tensor, previous: Tensor, positions: Tensor, attend: Attend
    ) -> Tensor:
        """Features `[..., H]` after embeddings `[..., H]` and the features before them.

        `positions` are those of the rows `[...]`; `attend` says what they see.
        """
        rows = self.fc(torch.cat((embedded, previous), dim=-1))
        return self._finish(rows + self.self_attn.through(rows, positions, attend))

    def extend(
        self, embedded: Tensor, position: int, cache: LayerCache, previous: Tensor
    ) -> Tensor:
        """Features `[T, H]` of one sequence; a `position` below the cached length truncates it.

        Raises:
            ValueError: a position beyond what the cache holds.
        """
        return _extended(self, embedded, position, cache, previous)

    def _finish(self, rows: Tensor) -> Tensor:
        update: Tensor = self.mlp(self.post_attention_layernorm(rows))
        return rows + update


class Eagle3Head(nn.Module):
    """EAGLE-3: attention reads `concat(norm(embedding), norm(feature))` and adds to the feature.

    A feature is made of rows of three depths (`fuse`); an estimate goes through the head's own norm
    and LM head (`logits`).
    """

    def __init__(self, shape: ModelShape, num_drafted: int, norm_before_residual: bool) -> None:
        super().__init__()
        hidden, eps = shape.hidden_size, shape.rms_norm_eps
        self._norm_before_residual = norm_before_residual
        self.fc = nn.Linear(3 * hidden, hidden, bias=False)
        self.input_layernorm = RmsNorm(hidden, eps)
        self.hidden_norm = RmsNorm(hidden, eps)
        self.self_attn = _attention(shape, 2 * hidden)
        self.post_attention_layernorm = RmsNorm(hidden, eps)
        self.mlp = GatedMlp(shape)
        self.norm = RmsNorm(hidden, eps)
        self.lm_head = nn.Linear(hidden, num_drafted, bias=False)

    def fuse(self, rows: Tensor) -> Tensor:
        """Features `[..., H]` of the rows of three depths side by side `[..., 3H]`."""
        fused: Tensor = self.fc(rows)
        return fused

    def logits(self, estimates: Tensor) -> Tensor:
        """Over the tokens that can be drafted `[..., N]`."""
        drafted: Tensor = self.lm_head(self.norm(estimates))
        return drafted

    def through(
        self, embedded: Tensor, previous: Tensor, positions: Tensor, attend: Attend
    ) -> Tensor:
        """Features `[..., H]`; see `EagleHead.through`."""
        normed, residual = self._into(embedded, previous)
        return self._finish(residual + self.self_attn.through(normed, positions, attend))

    def extend(
        self, embedded: Tensor, position: int, cache: LayerCache, previous: Tensor
    ) -> Tensor:
        """Features `[T, H]` of one sequence; see `EagleHead.extend`."""
        return _extended(self, embedded, position, cache, previous)

    def _into(self, embedded: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """What attention reads, and what it adds to."""
        normed = self.hidden_norm(previous)
        residual = normed if self._norm_before_residual else previous
        return torch.cat((self.input_layernorm(embedded), normed), dim=-1), residual

    def _finish(self, rows: Tensor) -> Tensor:
        update: Tensor = self.mlp(self.post_attention_layernorm(rows))
        return rows + update


HeadNetwork = EagleHead | Eagle3Head


def build_head(card: AdapterCard) -> HeadNetwork:
    """The network of a published head, its weights still to be loaded."""
    assert card.head is not None, "the card of a published head"
    if card.kind == "eagle":
        return EagleHead(card.shape)
    num_drafted = card.draft_vocabulary_size or card.shape.vocab_size
    return Eagle3Head(card.shape, num_drafted, card.head.norm_before_residual)


def load_published_head(stored: StoredAdapter, device: torch.device | str = "cpu") -> HeadNetwork:
    """A published head that was imported, ready to run."""
    file = stored.tensors()
    network = build_head(stored.card)
    tensors = {
        name.removeprefix(layer_name(0, "")): torch.from_numpy(np.array(file.read(name)))
        for name in weight_shapes(stored.card)
    }
    network.load_state_dict(tensors)
    return network.to(device).eval()


def _extended(
    network: HeadNetwork, embedded: Tensor, position: int, cache: LayerCache, previous: Tensor
) -> Tensor:
    positions = torch.arange(position, position + len(embedded), device=embedded.device)
    return network.through(embedded, previous, positions, over_cache(cache, position, None))


def _attention(shape: ModelShape, num_columns: int) -> SelfAttention:
    """Attention over rows of any width, with biases where the shape has them."""
    attention = SelfAttention(shape)
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    attention.q_proj = nn.Linear(num_columns, queries, bias=shape.qkv_bias)
    attention.k_proj = nn.Linear(num_columns, keys, bias=shape.qkv_bias)
    attention.v_proj = nn.Linear(num_columns, keys, bias=shape.qkv_bias)
    return attention
