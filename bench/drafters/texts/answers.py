"""What the whole model answers, many prompts at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.data.whole_model import WholeModel
from bench.drafters.texts.blocks import Attend, Block, attend, block_of_layer
from bench.drafters.texts.choosing import Choice
from submodels.bundle.layers import embed

_CHUNK_TOKENS = 128
"""Of a prompt at once: more would compute what is masked, and hold it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens, the last one a stop token unless the answer is as long as it may be.

    `deep` `[A, H]`: row i is the one that token i was chosen from, which comes down to the device.
    """

    token_ids: tuple[int, ...]
    deep: NDArray[np.float32]


class Teacher:
    """The layers of a whole model without output layers on the device, over a batch.

    Raises:
        ValueError: the device has output layers; then a draft depends on more than is replayed.
    """

    def __init__(self, model: WholeModel) -> None:
        if model.output_layers:
            raise ValueError(
                f"expected a split without output layers on the device, got "
                f"{len(model.output_layers)}"
            )
        self.model = model
        self._blocks = [
            block_of_layer(layer) for layer in (*model.input_layers, *model.middle_layers)
        ]

    @torch.inference_mode()
    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        choices: Sequence[Sequence[Choice]],
        max_tokens: int,
        stop_token_ids: frozenset[int],
        progress: Callable[[], None] = lambda: None,
    ) -> list[list[Answer]]:
        """For each prompt an answer by each of its choices; a prompt is read once for all of them.

        `progress` is called after every prompt that was read and every token of the batch.
        """
        slots = [(p, choice) for p, own in enumerate(choices) for choice in own]
        longest = max(len(prompt) for prompt in prompts) + max_tokens
        caches = [_Cache(block, len(slots), longest) for block in self._blocks]
        tops: list[Tensor] = []
        for prompt, own in zip(prompts, choices, strict=True):
            first = len(tops)
            top = self._read(prompt, first, caches)
            for cache in caches:
                cache.copy(first, range(first + 1, first + len(own)), len(prompt))
            tops += [top] * len(own)
            progress()
        rows = torch.stack(tops)
        writers = [_Writer(choice, len(prompts[p])) for p, choice in slots]
        for _ in range(max_tokens):
            logits = self.model.head(rows)
            for slot, writer in enumerate(writers):
                writer.take(rows[slot], logits[slot], stop_token_ids)
            if all(writer.is_done for writer in writers):
                break
            rows = self._step(writers, rows, caches)
            progress()
        came = iter(Answer(tuple(w.token_ids), torch.stack(w.deep).numpy()) for w in writers)
        return [[next(came) for _ in own] for own in choices]

    def _read(self, prompt: Sequence[int], slot: int, caches: "Sequence[_Cache]") -> Tensor:
        """The last deep row `[H]` of a prompt, whose keys and values stay in the slot."""
        rows = torch.empty(0)
        for start in range(0, len(prompt), _CHUNK_TOKENS):
            piece = prompt[start : start + _CHUNK_TOKENS]
            positions = torch.arange(start, start + len(piece))
            rows = embed(self.model.embedding, piece)
            for block, cache in zip(self._blocks, caches, strict=True):
                rows = block.forward(rows, positions, cache.reading(slot, start))
        return rows[-1]

    def _step(
        self, writers: "Sequence[_Writer]", old: Tensor, caches: "Sequence[_Cache]"
    ) -> Tensor:
        """Deep rows of the tokens written last; those of answers that have ended stay."""
        live = torch.tensor([slot for slot, writer in enumerate(writers) if not writer.is_done])
        positions = torch.tensor([writers[int(slot)].position - 1 for slot in live])
        rows = embed(self.model.embedding, [writers[int(slot)].token_ids[-1] for slot in live])
        for block, cache in zip(self._blocks, caches, strict=True):
            rows = block.forward(rows, positions, cache.writing(live, positions))
        return old.index_copy(0, live, rows)


class _Writer:
    """One answer as it grows. `position` is that of its next token."""

    def __init__(self, choice: Choice, position: int) -> None:
        self._choice = choice
        self.position = position
        self.token_ids: list[int] = []
        self.deep: list[Tensor] = []
        self.is_done = False

    def take(self, row: Tensor, logits: Tensor, stop_token_ids: frozenset[int]) -> None:
        """Choose the next token from a deep row `[H]` and its logits `[V]`."""
        if self.is_done:
            return
        token = int(self._choice(torch.tensor([self.position]), logits[None])[0])
        self.deep.append(row.clone())
        self.token_ids.append(token)
        self.position += 1
        self.is_done = token in stop_token_ids


class _Cache:
    """Keys and values of one layer, `[slots, KV, capacity, D]`, a sequence to each slot."""

    def __init__(self, block: Block, num_slots: int, capacity: int) -> None:
        shape = block.shape
        size = (num_slots, shape.num_key_value_heads, capacity, shape.head_dim)
        self._keys, self._values = torch.zeros(size), torch.zeros(size)
        self._window = math.inf if block.window is None else block.window

    def copy(self, source: int, slots: Sequence[int], num_tokens: int) -> None:
        """The first positions of one slot into others."""
        for slot in slots:
            for held in (self._keys, self._values):
                held[slot, :, :num_tokens] = held[source, :, :num_tokens]

    def reading(self, slot: int, start: int) -> Attend:
        """Attention of a prompt's rows from `start` on, all of one slot."""

        def read(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            end = start + len(queries)
            self._keys[slot, :, start:end] = keys.transpose(0, 1)
            self._values[slot, :, start:end] = values.transpose(0, 1)
            positions = torch.arange(start, end)[:, None]
            mixed = attend(
                queries.transpose(0, 1)[None],
                self._keys[slot : slot + 1, :, :end],
                self._values[slot : slot + 1, :, :end],
                self._visible(positions, end),
            )
            return mixed[0].transpose(0, 1)

        return read

    def writing(self, slots: Tensor, positions: Tensor) -> Attend:
        """Attention of one row of each of these slots, at its own position."""

        def step(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self._keys[slots, :, positions] = keys
            self._values[slots, :, positions] = values
            end = int(positions.max()) + 1
            visible = self._visible(positions[:, None], end)[:, None, None]
            held = [each[:, :, :end] for each in (self._keys, self._values)]
            if len(slots) < len(self._keys):
                held = [each[slots] for each in held]
            return attend(queries[:, :, None], held[0], held[1], visible)[:, :, 0]

        return step

    def _visible(self, positions: Tensor, end: int) -> Tensor:
        places = torch.arange(end)
        return (places <= positions) & (places > positions - self._window)
