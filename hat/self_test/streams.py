"""Rows that go into the middle layers, and the rows that must come out of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cloud_server.engines.engine import MiddleEngine, SequenceId, StepItem
from wire.messages import Want
from wire.numbers import NUMPY_DTYPES

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stream:
    """One session's `rows` `[T, H]` in float32, and what is `expected` of them, alike."""

    rows: Floats
    expected: Floats
    ids: tuple[int, ...] = ()


class Streams(Protocol):
    """Makes streams; `source` says in words where the expected rows come from."""

    source: str

    def stream(self, num_rows: int, seed: int, after: Stream | None = None) -> Stream:
        """`num_rows` random ones, behind those of `after` if there is one."""
        ...


class TransformersStreams:
    """What the whole model's layers compute, in float32 on the CPU, by `transformers`.

    Raises:
        ImportError: it is not installed.
    """

    source = "transformers in float32"

    def __init__(self, model: Path, num_input_layers: int, num_middle_layers: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._torch: Any = torch
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._layers: Any = loaded.model.eval()
        self._vocab_size = int(loaded.config.vocab_size)
        self._first, self._end = num_input_layers, num_input_layers + num_middle_layers

    def stream(self, num_rows: int, seed: int, after: Stream | None = None) -> Stream:
        """See `Streams.stream`; the rows are those of random tokens."""
        fresh = np.random.default_rng(seed).integers(0, self._vocab_size, num_rows).tolist()
        ids = (*(() if after is None else after.ids), *fresh)
        with self._torch.inference_mode():
            out = self._layers(self._torch.tensor([ids]), output_hidden_states=True)
        states = out.hidden_states
        return Stream(states[self._first][0].numpy(), states[self._end][0].numpy(), ids)


class OwnStreams:
    """What the engine itself computes when a stream comes whole, in one step, alone.

    For a bundle, whose whole model is not there: this shows that caches, batches and rollbacks
    change nothing, not that the layers are right.
    """

    source = "the engine's own whole prompt"

    def __init__(self, engine: MiddleEngine) -> None:
        self._engine = engine

    def stream(self, num_rows: int, seed: int, after: Stream | None = None) -> Stream:
        """See `Streams.stream`."""
        engine = self._engine
        shape = (num_rows, engine.hidden_size)
        rows = np.random.default_rng(seed).standard_normal(shape, np.float32)
        if after is not None:
            rows = np.concatenate([after.rows, rows])
        with opened(engine, len(rows)) as (sequence,):
            item = StepItem(sequence, 0, rows.astype(NUMPY_DTYPES[engine.dtype]), Want.ALL)
            expected = engine.step([item])[0].astype(np.float32)
        return Stream(rows, expected)


def beginning(stream: Stream, num_rows: int) -> Stream:
    """The stream's first rows."""
    return Stream(stream.rows[:num_rows], stream.expected[:num_rows], stream.ids[:num_rows])


@contextmanager
def opened(engine: MiddleEngine, *max_tokens: int) -> Iterator[list[SequenceId]]:
    """Sequences that are released whatever happens."""
    sequences: list[SequenceId] = []
    try:
        for num_tokens in max_tokens:
            sequences.append(engine.open(num_tokens))  # noqa: PERF401 (one may be refused)
        yield sequences
    finally:
        for sequence in sequences:
            engine.release(sequence)
