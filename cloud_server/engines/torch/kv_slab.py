"""The KV cache of one sequence: a slab per side that grows by moving, and truncates for free."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch

from cloud_server.engines.engine import EngineFullError

_LADDER_START_TOKENS = 256
_LADDER_FACTOR = 4
"""A slab grows 256, 1024, 4096, ...: a token is moved less than 0.34 times on average."""

_ALIGN_TOKENS = 16
_ALIASING_TOKENS = 256
"""Transposed keys whose rows lie a power of two apart share cache sets; 16 tokens of padding made
the score product 1.3 times faster (measured, float32, 12 heads of 64, 544 keys, Zen 4)."""


@dataclass(frozen=True, slots=True)
class LayerKv:
    """What a layer holds of one position: so many keys and values, each of so many numbers."""

    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class KvShape:
    """What one cached position holds, and how.

    `transposed` keys are stored `[KV, D, tokens]`, otherwise `[KV, tokens, D]` like values.
    """

    layers: tuple[LayerKv, ...]
    dtype: torch.dtype
    device: torch.device
    transposed: bool

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one position in all layers."""
        numbers = sum(2 * layer.num_kv_heads * layer.head_dim for layer in self.layers)
        return numbers * self.dtype.itemsize


def slab_tokens(num_tokens: int, max_tokens: int) -> int:
    """The slab size for a sequence of `num_tokens` that will never exceed `max_tokens`."""
    size = _LADDER_START_TOKENS
    while size < num_tokens:
        size *= _LADDER_FACTOR
    return min(size, max_tokens)


@dataclass(frozen=True, slots=True)
class SavedKv:
    """Positions `[begin, end)` of a slab in host memory, laid out as in the slab; a `HostCopy`."""

    begin: int
    end: int
    sides: Sequence[torch.Tensor]

    def wait(self) -> None:
        """See `PendingCopy.wait`: it was made at once."""


class KvSlab:
    """Keys and values of one sequence, all layers. Positions `[0, length)` are valid."""

    def __init__(self, shape: KvShape, max_tokens: int) -> None:
        self._shape = shape
        self.max_tokens = max_tokens
        self.length = 0
        self._allocate(slab_tokens(0, max_tokens))

    def reserve(self, num_tokens: int) -> None:
        """Make room for `num_tokens` positions, keeping the valid ones."""
        if num_tokens <= self._num_slots:
            return
        old = self._sides
        self._allocate(slab_tokens(num_tokens, self.max_tokens))
        self._copy_from(old, self.length)

    def copy_prefix(self, source: "KvSlab", num_tokens: int) -> None:
        """Become the first `num_tokens` positions of `source`."""
        self.length = 0
        self.reserve(num_tokens)
        self._copy_from(source._sides, num_tokens)
        self.length = num_tokens

    def saved(self, begin: int, end: int) -> SavedKv:
        """A copy of positions `[begin, end)` in host memory.

        Raises:
            EngineFullError: there is none for it.
        """
        parts = self._parts(self._sides, begin, end)
        try:
            host = [torch.empty(part.shape, dtype=part.dtype) for part in parts]
        except RuntimeError as error:  # what torch raises where memory is refused
            raise EngineFullError(f"no host memory for {end - begin} positions") from error
        for target, part in zip(host, parts, strict=True):
            target.copy_(part)
        return SavedKv(begin, end, host)

    def put_back(self, saved: SavedKv, begin: int, end: int) -> None:
        """Take positions `[begin, end)` of a copy behind those that are valid."""
        self.reserve(end)
        sources = self._parts(saved.sides, begin - saved.begin, end - saved.begin)
        targets = self._parts(self._sides, begin, end)
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
        self.length = end

    def write(
        self, layer: int, position: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store rows `[T, KV, D]` at `position` and give the layer's whole sides back.

        Returns:
            Keys `[KV, D, slots]` and values `[KV, slots, D]`, as views.
        """
        end = position + keys.shape[0]
        all_keys, all_values = self._layers[layer]
        all_keys[:, :, position:end] = keys.permute(1, 2, 0)
        all_values[:, position:end] = values.transpose(0, 1)
        return all_keys, all_values

    def _allocate(self, num_slots: int) -> None:
        """New sides: keys, then values, of all layers that have the same heads, for each such."""
        self._num_slots = num_slots
        self._sides: list[torch.Tensor] = []
        layers: dict[LayerKv, Iterator[tuple[torch.Tensor, torch.Tensor]]] = {}
        for heads in dict.fromkeys(self._shape.layers):
            keys, values = _sides(self._shape, heads, num_slots)
            self._sides += (keys, values)
            by_feature = keys if self._shape.transposed else keys.transpose(2, 3)
            layers[heads] = zip(by_feature.unbind(), values.unbind(), strict=True)
        self._layers = [next(layers[heads]) for heads in self._shape.layers]

    def _copy_from(self, sides: Sequence[torch.Tensor], num_tokens: int) -> None:
        targets = self._parts(self._sides, 0, num_tokens)
        for target, source in zip(targets, self._parts(sides, 0, num_tokens), strict=True):
            target.copy_(source)

    def _parts(self, sides: Sequence[torch.Tensor], begin: int, end: int) -> list[torch.Tensor]:
        """Keys and values of positions `[begin, end)`, as views."""
        axes = cycle((3 if self._shape.transposed else 2, 2))
        return [
            side.narrow(axis, begin, end - begin) for axis, side in zip(axes, sides, strict=False)
        ]


def _sides(shape: KvShape, kv: LayerKv, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of all layers with such heads, uninitialised: what is not written is never
    read."""
    slots = -(-num_tokens // _ALIGN_TOKENS) * _ALIGN_TOKENS
    heads = (shape.layers.count(kv), kv.num_kv_heads)
    values = torch.empty(*heads, slots, kv.head_dim, dtype=shape.dtype, device=shape.device)
    if not shape.transposed:
        return torch.empty_like(values), values
    padding = _ALIGN_TOKENS if slots % _ALIASING_TOKENS == 0 else 0
    keys = values.new_empty(*heads, kv.head_dim, slots + padding)
    return keys, values
