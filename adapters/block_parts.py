"""The parts of an adapter that drafts blocks: attention of many blocks at once, and their head.

Shapes: `B` sequences of `T` rows, `A` blocks behind positions of each, `E` rows of a block behind
its first, `H` hidden, `KV` key heads, `G` query heads for each of them, `D` head size.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from adapters.network_parts import RmsNorm, SelfAttention, causal
from adapters.storage import SEQUEL_RANK, SEQUEL_WIDTH
from submodels.manifest import ModelShape


class SequelHead(nn.Module):
    """Fits a block's tokens to each other: what the tokens drafted before change of a row.

    At place j > 0 of a block, with f_j the row behind the final norm, x_{j-1} the token drafted at
    the place before, and a state g (0 at first):

        g_j = squeeze(silu(inner(norm_row(f_j)) + token(norm_token(embedding of x_{j-1}))
                           + state(g_{j-1})))

    and the head reads f_j + out(g_j). As `out` has a low rank, a device multiplies it by the head
    once, and a place costs that product of `[V, rank]` instead of the head.

    Source: DSpark's sequential heads (a low-rank table of token pairs, or a small recurrent
    network); here the token's own embedding is read instead of a table, as little data teaches no
    table of a vocabulary.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        hidden, eps = shape.hidden_size, shape.rms_norm_eps
        self.norm_row = RmsNorm(hidden, eps)
        self.norm_token = RmsNorm(hidden, eps)
        self.inner = nn.Linear(hidden, SEQUEL_WIDTH, bias=False)
        self.token = nn.Linear(hidden, SEQUEL_WIDTH, bias=False)
        self.state = nn.Linear(SEQUEL_RANK, SEQUEL_WIDTH, bias=False)
        self.squeeze = nn.Linear(SEQUEL_WIDTH, SEQUEL_RANK, bias=False)
        self.out = nn.Linear(SEQUEL_RANK, hidden, bias=False)
        # A new one leaves the rows as they are.
        nn.init.zeros_(self.out.weight)

    def forward(self, final: Tensor, embedded: Tensor) -> Tensor:
        """What the head reads at all places, `[..., k, H]`.

        Args:
            final: The rows behind the final norm, `[..., k, H]`.
            embedded: Embeddings of the tokens at all places but the last, `[..., k - 1, H]`.
        """
        inner = self.read(final)
        rows, state = [final[..., 0, :]], self.begin(final)
        for place in range(1, final.shape[-2]):
            state = self.step(inner[..., place, :], embedded[..., place - 1, :], state)
            rows.append(final[..., place, :] + self.out(state))
        return torch.stack(rows, dim=-2)

    def begin(self, final: Tensor) -> Tensor:
        """The state `[..., rank]` at the first place."""
        return final.new_zeros((*final.shape[:-2], SEQUEL_RANK))

    def read(self, final: Tensor) -> Tensor:
        """What a step reads of rows `[..., H]` behind the final norm, `[..., width]`."""
        inner: Tensor = self.inner(self.norm_row(final))
        return inner

    def step(self, inner: Tensor, embedded: Tensor, state: Tensor) -> Tensor:
        """The state `[..., rank]` behind the token before, of whose embedding `[..., H]`."""
        hidden = inner + self.token(self.norm_token(embedded)) + self.state(state)
        after: Tensor = self.squeeze(nn.functional.silu(hidden))
        return after


class _Layer(Protocol):
    self_attn: SelfAttention
    input_layernorm: RmsNorm

    def finish(self, rows: Tensor) -> Tensor: ...


def layer_over_blocks(
    layer: _Layer, text: Tensor, tails: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows `[B, T, H]` of sequences and `[B, A, E, H]` of blocks after one decoder layer.

    Block a of a sequence stands behind its position `anchors[a]`: it sees the sequence up to there,
    and itself, each row those before it.
    """
    attention = layer.self_attn
    positions = torch.arange(text.shape[1], device=text.device)
    queries, keys, values = attention.project(layer.input_layernorm(text), positions)
    mixed = causal(queries, keys, values).flatten(2)
    after = layer.finish(text + attention.o_proj(mixed))

    places = torch.arange(1, tails.shape[2] + 1, device=text.device)
    behind = (anchors[..., None] + places).flatten()
    own = attention.project(layer.input_layernorm(tails).flatten(0, 2), behind)
    blocks = [part.unflatten(0, tails.shape[:3]) for part in own]  # type: ignore[no-untyped-call]
    block_mixed = _block_attention(blocks[0], (keys, values), (blocks[1], blocks[2]), anchors)
    return after, layer.finish(tails + attention.o_proj(block_mixed))


def _block_attention(
    queries: Tensor, text: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], anchors: Tensor
) -> Tensor:
    """What queries `[B, A, E, heads, D]` take from the text before their block and from it.

    Keys and values are `[B, T, KV, D]` of the text and `[B, A, E, KV, D]` of the blocks.
    """
    (text_keys, text_values), (own_keys, own_values) = text, own
    num_text, num_kv = text_keys.shape[1:3]
    grouped = queries.unflatten(3, (num_kv, -1)) * queries.shape[-1] ** -0.5  # type: ignore[no-untyped-call]
    seen = torch.arange(num_text, device=anchors.device) <= anchors[..., None]
    before = torch.einsum("baekgd,btkd->bkgaet", grouped, text_keys)
    before = before.masked_fill(~seen[:, None, None, :, None], float("-inf"))
    num_own = own_keys.shape[2]
    causal = torch.ones(num_own, num_own, dtype=torch.bool, device=anchors.device).tril()
    within = torch.einsum("baekgd,bafkd->bkgaef", grouped, own_keys)
    within = within.masked_fill(~causal, float("-inf"))
    weights = torch.cat((before, within), dim=-1).softmax(-1).to(text_values.dtype)
    mixed = torch.einsum("bkgaet,btkd->baekgd", weights[..., :num_text], text_values)
    mixed = mixed + torch.einsum("bkgaef,bafkd->baekgd", weights[..., num_text:], own_values)
    return mixed.flatten(3)
