"""The embedded middle engine: one ragged forward per step, on a CPU or one GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cloud_server.engines.checks import check_items, check_opening, check_restore, check_save
from cloud_server.engines.engine import (
    EngineFullError,
    HostCopy,
    PendingCopy,
    Rows,
    SequenceId,
    StepItem,
)
from cloud_server.engines.torch.attention import HeadLayout, plan_blocks
from cloud_server.engines.torch.kv_slab import KvShape, KvSlab, SavedKv
from cloud_server.engines.torch.layer import MiddleLayer, Ragged, Span, Turn
from cloud_server.engines.torch.rows import rows_of, tensor_of
from wire.messages import Dtype


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """KV positions over all sequences, and the most one sequence may have."""

    capacity_tokens: int
    max_context_tokens: int


class TorchMiddleEngine:
    """A `MiddleEngine` of torch operators.

    Linear layers run over the rows of all items together, attention per sequence. A sequence's
    reservation counts against the capacity at once; its memory grows as it is used.

    `windows` are the layers' attention windows, one per layer, and `turns` what they are turned by.
    """

    block_tokens = 1
    takes_taps = True

    def __init__(
        self,
        layers: Sequence[MiddleLayer],
        windows: Sequence[int | None],
        turns: Sequence[Turn],
        kv_shape: KvShape,
        dtype: Dtype,
        limits: EngineLimits,
    ) -> None:
        self.hidden_size = layers[0].hidden_size
        self.dtype = dtype
        self.capacity_tokens = limits.capacity_tokens
        self.max_context_tokens = limits.max_context_tokens
        self._layers = layers
        self._windows = tuple(dict.fromkeys(windows))
        self._kv_shape = kv_shape
        self._device = kv_shape.device
        self._turns = [(turn, *_frequencies(turn, self._device)) for turn in turns]
        # Blocks are as large as all query heads' scores allow, however keys are shared.
        self._heads = HeadLayout(1, turns[0].num_query_heads)
        self._slabs: dict[SequenceId, KvSlab] = {}
        self._num_opened = 0
        self._reserved_tokens = 0

    @torch.inference_mode()
    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        """See `MiddleEngine.open`.

        Raises:
            ValueError: a length outside what this engine or the forked sequence has.
        """
        source = None if fork_of is None else self._slab(fork_of)
        check_opening(max_tokens, self.max_context_tokens, fork_tokens, source)
        free_tokens = self.capacity_tokens - self._reserved_tokens
        if max_tokens > free_tokens:
            raise EngineFullError(
                f"{max_tokens} positions asked for, {free_tokens} of {self.capacity_tokens} free"
            )
        slab = KvSlab(self._kv_shape, max_tokens)
        if source is not None:
            slab.copy_prefix(source, fork_tokens)
        self._num_opened += 1
        self._reserved_tokens += max_tokens
        sequence = SequenceId(self._num_opened)
        self._slabs[sequence] = slab
        return sequence

    def release(self, sequence: SequenceId) -> None:
        """See `MiddleEngine.release`.

        Raises:
            ValueError: no such sequence.
        """
        self._reserved_tokens -= self._slab(sequence).max_tokens
        del self._slabs[sequence]

    @torch.inference_mode()
    def save(self, sequence: SequenceId, begin: int, end: int) -> SavedKv:
        """See `MiddleEngine.save`; it is made before this returns.

        Raises:
            ValueError: no such sequence, or not such positions.
        """
        slab = self._slab(sequence)
        check_save(slab, begin, end, self.block_tokens)
        return slab.saved(begin, end)

    @torch.inference_mode()
    def restore(self, sequence: SequenceId, copy: HostCopy, begin: int, end: int) -> PendingCopy:
        """See `MiddleEngine.restore`; it is done before this returns.

        Raises:
            ValueError: no such sequence, or positions that do not follow on what it holds.
        """
        slab = self._slab(sequence)
        check_restore(slab, copy, begin, end, self.block_tokens)
        assert isinstance(copy, SavedKv), "it came from here"
        slab.put_back(copy, begin, end)
        return copy

    def drop(self, copy: HostCopy) -> PendingCopy:
        """See `MiddleEngine.drop`: its memory goes with the last reference to it."""
        return copy

    @torch.inference_mode()
    def step(self, batch: Sequence[StepItem]) -> list[Rows]:
        """See `MiddleEngine.step`. Nothing changes when an item is refused.

        Raises:
            ValueError: an item that names an unknown sequence, a sequence twice, a position
                beyond what it holds or may hold, or rows of another shape or number format.
        """
        if not batch:
            return []
        check_items(batch, self._slab, self.hidden_size, self.dtype)
        for item in batch:
            slab = self._slab(item.sequence)
            slab.length = item.position
            slab.reserve(item.position + len(item.rows))
        ragged = self._ragged(batch)
        rows = tensor_of([item.rows for item in batch], self.dtype, self._device)
        depths = {tap for item in batch for tap in item.taps}
        tapped: dict[int, torch.Tensor] = {}
        for num_layers, layer in enumerate(self._layers, start=1):
            rows = layer.forward(rows, ragged)
            if num_layers in depths:
                tapped[num_layers] = rows
        wanted = _wanted(rows, tapped, batch)
        for item in batch:
            self._slab(item.sequence).length = item.position + len(item.rows)
        return wanted

    def _slab(self, sequence: SequenceId) -> KvSlab:
        if sequence not in self._slabs:
            raise ValueError(f"no sequence {sequence}")
        return self._slabs[sequence]

    def _ragged(self, batch: Sequence[StepItem]) -> Ragged:
        spans = []
        positions = []
        for item in batch:
            first, num_rows = item.position, len(item.rows)
            blocks = {
                window: plan_blocks(first, num_rows, window, self._heads, self._device)
                for window in self._windows
            }
            spans.append(Span(self._slab(item.sequence), num_rows, first, blocks))
            positions.append(torch.arange(first, first + num_rows))
        at = torch.cat(positions).to(self._device)
        return Ragged(spans, [self._rotation(at, *each) for each in self._turns])

    def _rotation(
        self, positions: torch.Tensor, turn: Turn, inv_freq: torch.Tensor, scales: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines `[T, Hq + KV, D]`, as `Ragged` has them.

        Angles are computed in float32 and rounded to the engine's format, as transformers does.
        """
        angles = positions.float().unsqueeze(1) * inv_freq
        cos, sin = angles.cos() * scales, angles.sin() * scales
        num_heads = turn.num_query_heads + turn.num_kv_heads
        factors = torch.ones((num_heads, 1), device=self._device)
        factors[: turn.num_query_heads] *= turn.scale
        both = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        rounded = [(side.unsqueeze(1) * factors).to(self._kv_shape.dtype) for side in both]
        return rounded[0], rounded[1]


def _frequencies(turn: Turn, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Frequency and scale of each pair of a head `[D / 2]`; 0 and 1 where nothing turns."""
    rope, head_dim = turn.rope, turn.head_dim
    frequencies, scales = torch.zeros(head_dim // 2), torch.ones(head_dim // 2)
    frequencies[: len(rope.inv_freq)] = torch.tensor(rope.inv_freq, dtype=torch.float32)
    scales[: len(rope.inv_freq)] = rope.attention_scaling
    return frequencies.to(device), scales.to(device)


def _wanted(
    rows: torch.Tensor, tapped: Mapping[int, torch.Tensor], batch: Sequence[StepItem]
) -> list[Rows]:
    """The rows each item asked for, taps behind each, on the host, in arrays of their own."""
    answers = []
    end_row = 0
    for item in batch:
        end_row += len(item.rows)
        part = slice(end_row - item.num_wanted_rows, end_row)
        asked = rows[part]
        if item.taps:
            asked = torch.stack([asked, *(tapped[tap][part] for tap in item.taps)], dim=1)
        answers.append(rows_of(asked.flatten(0, -2).cpu()).copy())
    return answers
