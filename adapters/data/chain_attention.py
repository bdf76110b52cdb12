"""What one layer remembers of a text, and of chains of drafts that go on from many of its places.

The text is read once. A chain from each of its starts then goes on row by row, all side by side:
they share the text's keys and values and add their own. Shapes: `L` rows of the text, `S` starts,
`KV` key-value heads, `D` head size; all may have leading dimensions.
"""

import torch
from torch import Tensor

from adapters.network_parts import causal


class ChainAttention:
    """Keys and values of one layer.

    `last_seen` `[S]` is the last position of the text that each chain sees; its own rows have the
    positions after that. `window` is how many keys a row sees, itself included, None for all.
    """

    def __init__(self, last_seen: Tensor, window: int | None = None) -> None:
        self._last_seen = last_seen
        self._window = window
        self._keys = self._values = torch.empty(0)
        self._chain: list[tuple[Tensor, Tensor]] = []

    def read(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of the text's own rows `[..., L, heads, D]` from position 0."""
        self._keys, self._values = keys, values
        return causal(queries, keys, values, self._window)

    def go_on(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of each chain's next row `[..., S, heads, D]`: over its text, and itself.

        Softmax over both together.
        """
        self._chain.append((keys, values))
        chain = self._chain if self._window is None else self._chain[-self._window :]
        num_text, num_kv = self._keys.shape[-3], keys.shape[-2]
        grouped = queries.view(*queries.shape[:-2], num_kv, -1, queries.shape[-1])
        grouped = grouped * queries.shape[-1] ** -0.5
        of_text = torch.einsum("...skgd,...pkd->...skgp", grouped, self._keys)
        of_text = of_text.masked_fill(self._hidden()[:, None, None], float("-inf"))
        own = [(grouped * own_keys[..., None, :]).sum(-1, True) for own_keys, _ in chain]
        weights = torch.cat((of_text, *own), -1).softmax(-1)
        mixed = torch.einsum("...skgp,...pkd->...skgd", weights[..., :num_text], self._values)
        for place, (_, own_values) in enumerate(chain, num_text):
            mixed = mixed + weights[..., place, None] * own_values[..., None, :]
        return mixed.flatten(-3, -2)

    def _hidden(self) -> Tensor:
        """Which of the text's keys the chains' newest rows do not see, `[S, L]`."""
        text = torch.arange(self._keys.shape[-3], device=self._keys.device)
        seen = self._last_seen[:, None]
        hidden = text > seen
        if self._window is None:
            return hidden
        return hidden | (text <= seen + len(self._chain) - self._window)
