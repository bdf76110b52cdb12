"""How long an engine's calls take on this machine."""

import statistics
from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np

from device_runtime.engines.engine import DeviceEngine, DraftRequest, Rows, TappedEngine
from process.world import Clock

_LEAST_RUNS, _MOST_RUNS = 3, 25
_RUNS_S = 0.25
"""A call is repeated for so long, at least and at most so many times."""

_DRAFT_TOKENS = 4
_CONTEXT_TOKENS = 64
"""Of the text that is drafted behind."""


def typical_s(call: Callable[[], object], clock: Clock) -> float:
    """The median of some runs, behind one that warms up."""
    call()
    times: list[float] = []
    begun_s = clock()
    while len(times) < _LEAST_RUNS or (len(times) < _MOST_RUNS and clock() - begun_s < _RUNS_S):
        started_s = clock()
        call()
        times.append(clock() - started_s)
    return statistics.median(times)


def some_token_ids(num_tokens: int, vocab_size: int) -> tuple[int, ...]:
    """Token ids that say nothing, the same ones each time."""
    ids = np.random.default_rng(0).integers(0, vocab_size, num_tokens)
    return tuple(int(token_id) for token_id in ids)


def measured_draft_step_s(engine: DeviceEngine, clock: Clock) -> float:
    """Seconds for one token of a draft of four, behind a text of 64 whose deep rows are known.

    A draft's first step also runs what the adapter was not told before; that is shared among the
    four. Takes about a quarter of a second, and a whole draft three times at least.

    Raises:
        ValueError: an engine without an adapter, or a context too short for one draft.
    """
    num_context = min(_CONTEXT_TOKENS, engine.max_context_tokens - _DRAFT_TOKENS - 1)
    if num_context < 1:
        raise ValueError(
            f"expected a context of {_DRAFT_TOKENS + 2} tokens, got {engine.max_context_tokens}"
        )
    ids = some_token_ids(num_context, engine.vocab_size)
    # Behind another token each time: rows of tokens that were drafted before are remembered.
    tokens = cycle(ids)
    sequence = engine.open()
    try:
        rows = engine.input_rows(sequence, ids, 0)
        if isinstance(engine, TappedEngine) and engine.taps:
            # Any rows serve: a head drafts nothing where it was told nothing.
            num_taps = engine.taps.bit_count()
            engine.take_taps(sequence, np.repeat(rows[:, None], num_taps, axis=1), 0)
        engine.logits(sequence, rows, 0, 0)

        def draft() -> None:
            request = DraftRequest(
                (next(tokens),), num_context, _DRAFT_TOKENS, _likeliest, min_probability=0.0
            )
            engine.draft(sequence, request)

        return typical_s(draft, clock) / _DRAFT_TOKENS
    finally:
        engine.release(sequence)


def _likeliest(logits: Rows, drafted: Sequence[int]) -> int:
    return int(logits.argmax())
