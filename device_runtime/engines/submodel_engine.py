"""The device engine over any runner of decoder layers: which rows go where, and what is refused."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from device_runtime.engines.block_adapter import BlockAdapter
from device_runtime.engines.checks import check_deep, check_fork, check_span, checked_token_ids
from device_runtime.engines.draft_model import (
    AdapterState,
    BlockHead,
    DraftModel,
    RowMemory,
    WholeLogits,
    top_probability,
)
from device_runtime.engines.engine import DraftRequest, Rows, SequenceId, StackCache
from device_runtime.engines.head_adapter import HeadAdapter
from submodels.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Submodels:
    """The device's share of a model, ready to run.

    `embed` maps ids `[T]` to rows `[T, H]`, `head` rows `[R, H]` to logits `[R, V]`. The stacks
    make an empty cache; None stands for a part without layers, or for no adapter.
    """

    embed: Callable[[NDArray[np.int64]], Rows]
    new_input_cache: Callable[[], StackCache] | None
    new_output_cache: Callable[[], StackCache] | None
    head: Callable[[Rows], Rows]
    draft_model: DraftModel | None = None


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The sizes a device engine announces."""

    hidden_size: int
    vocab_size: int
    max_context_tokens: int
    num_output_layers: int


def engine_limits(manifest: Manifest, max_context_tokens: int | None) -> EngineLimits:
    """The sizes of a bundle's model, with fewer positions per sequence where asked for.

    Raises:
        ValueError: asked for none, or for more than the model has.
    """
    shape = manifest.shape
    if max_context_tokens is None:
        max_context_tokens = shape.max_context_tokens
    if not 1 <= max_context_tokens <= shape.max_context_tokens:
        expected = f"expected 1 to {shape.max_context_tokens}"
        raise ValueError(f"max_context_tokens: {expected}, got {max_context_tokens}")
    return EngineLimits(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_context_tokens=max_context_tokens,
        num_output_layers=manifest.num_output_layers,
    )


@dataclass(slots=True)
class _Sequence:
    """What is held of one sequence; `num_tokens` are the positions whose input rows were made."""

    num_tokens: int = 0
    input_cache: StackCache | None = None
    output_cache: StackCache | None = None
    adapter: AdapterState | None = None
    drafted: RowMemory = field(default_factory=RowMemory)

    def forget_output(self, num_tokens: int) -> None:
        """Output layers forget what lies from `num_tokens` on."""
        if self.output_cache is not None:
            self.output_cache.num_tokens = min(self.output_cache.num_tokens, num_tokens)

    def truncate(self, num_tokens: int) -> None:
        """Forget shallow rows from `num_tokens` on; the input layers do so when they run."""
        self.num_tokens = num_tokens
        if self.adapter is not None:
            self.adapter.truncate(num_tokens)


class SubmodelEngine:
    """A `DeviceEngine` on `Submodels`; what its methods do is said there."""

    def __init__(self, submodels: Submodels, limits: EngineLimits, runs_on: str = "cpu") -> None:
        self.hidden_size = limits.hidden_size
        self.vocab_size = limits.vocab_size
        self.max_context_tokens = limits.max_context_tokens
        self.num_output_layers = limits.num_output_layers
        self.runs_on = runs_on
        draft_model = submodels.draft_model
        self.draft_limits = None if draft_model is None else draft_model.limits
        vocabulary = None if draft_model is None else draft_model.vocabulary
        self._has_published_head = draft_model is not None and draft_model.is_published_head
        self.taps = 0 if draft_model is None else draft_model.taps
        self._whole_logits = None
        if vocabulary is not None:
            self._whole_logits = WholeLogits(vocabulary, limits.vocab_size)
        self.limits = limits
        self._submodels = submodels
        self._sequences: dict[SequenceId, _Sequence] = {}
        self._ids = count(1)

    def open(self) -> SequenceId:
        new_input, new_output = self._submodels.new_input_cache, self._submodels.new_output_cache
        state = _Sequence(
            0, new_input() if new_input else None, new_output() if new_output else None
        )
        if self._submodels.draft_model is not None:
            state.adapter = self._submodels.draft_model.new_adapter()
        return self._add(state)

    def input_rows(self, sequence: SequenceId, token_ids: Sequence[int], position: int) -> Rows:
        state = self._sequence(sequence)
        ids = checked_token_ids(token_ids, self.vocab_size)
        check_span(position, len(ids), state.num_tokens, self.max_context_tokens)
        rows = self._shallow(state, ids, position)
        state.drafted.keep_from(position)
        return rows

    def _shallow(
        self, state: _Sequence, ids: NDArray[np.int64], position: int, *, is_draft: bool = False
    ) -> Rows:
        """Rows `[T, H]` of checked token ids in a checked place; only those not known are run."""
        known = state.drafted.recall(ids.tolist(), position)
        state.forget_output(position)
        first = position + len(known)
        state.truncate(first)
        if len(known) == len(ids):
            return np.stack(known)
        rows = embedded = self._submodels.embed(ids[len(known) :])
        if state.input_cache is not None:
            rows = state.input_cache.run(rows, first)
        state.num_tokens = position + len(ids)
        if state.adapter is not None:
            both = np.concatenate((embedded, rows), 1) if self._has_published_head else rows
            state.adapter.add(both)
        if is_draft or known:
            state.drafted.append(ids[len(known) :].tolist(), rows, first)
        return np.concatenate((np.stack(known), rows)) if known else rows

    def logits(self, sequence: SequenceId, deep: Rows, position: int, num_logits: int) -> Rows:
        state = self._sequence(sequence)
        check_deep(deep, self.hidden_size, num_logits)
        rows, num_rows = deep, deep.shape[0]
        if state.output_cache is not None:
            num_held = state.output_cache.num_tokens
            check_span(position, num_rows, num_held, self.max_context_tokens)
            rows = state.output_cache.run(deep, position)
        if state.adapter is not None:
            state.adapter.learn(rows if self._has_published_head else deep, position)
        if num_logits == 0:
            return np.empty((0, self.vocab_size), np.float32)
        return self._submodels.head(rows[num_rows - num_logits :])

    def take_taps(self, sequence: SequenceId, taps: Rows, position: int) -> None:
        adapter = self._sequence(sequence).adapter
        if isinstance(adapter, HeadAdapter):
            adapter.learn_taps(taps, position)

    def draft(self, sequence: SequenceId, request: DraftRequest) -> tuple[int, ...]:
        state = self._sequence(sequence)
        draft_model = self._submodels.draft_model
        if draft_model is None:
            raise ValueError("expected an engine with an adapter to draft")
        drafted: list[int] = []
        threshold = request.min_probability
        if threshold is None:
            threshold = draft_model.limits.stop_threshold
        if request.is_alone:
            if not draft_model.limits.may_stand_alone:
                raise ValueError("expected an adapter that needs no row of the cloud's")
            state.drafted.keep_from(request.position)
        narrow = None if request.is_alone else self._whole_logits
        for logits in self._draft_logits(state, draft_model, request, drafted):
            if top_probability(logits) < threshold:
                break
            whole = logits if narrow is None else narrow.of(logits)
            token = request.choose(whole, drafted)
            if token is None:
                break
            drafted.append(token)
            if token in request.stop_token_ids:
                break
        if not request.is_alone:
            # Estimates are no past for the target's own deep rows.
            state.forget_output(request.position)
        return tuple(drafted)

    def _draft_logits(
        self,
        state: _Sequence,
        draft_model: DraftModel,
        request: DraftRequest,
        drafted: Sequence[int],
    ) -> Iterator[Rows]:
        """Logits of the request's tokens, one after the other; those before are in `drafted`."""
        if draft_model.block is not None:
            yield from self._block_logits(state, draft_model.block, request, drafted)
            return
        new, position = request.token_ids, request.position
        head = self._submodels.head if request.is_alone else draft_model.head
        while len(drafted) < request.num_tokens:
            if position + len(new) > self.max_context_tokens:
                return
            estimates = self._estimates(state, new, position)[-1:]
            if not estimates.any():
                # A published head that knows nothing of the position before.
                return
            yield head(estimates)[0]
            new, position = (drafted[-1],), position + len(new)

    def _block_logits(
        self, state: _Sequence, head: BlockHead, request: DraftRequest, drafted: Sequence[int]
    ) -> Iterator[Rows]:
        """The same out of one pass, and no more than that gives."""
        ids = checked_token_ids(request.token_ids, self.vocab_size)
        end = request.position + len(ids)
        num_places = min(request.num_tokens, head.block_size, self.max_context_tokens - end + 1)
        if num_places <= 0:
            return
        check_span(request.position, len(ids), state.num_tokens, self.max_context_tokens)
        rows = self._shallow(state, ids, request.position, is_draft=True)
        assert isinstance(state.adapter, BlockAdapter), "a block head comes with its adapter"
        estimates = state.adapter.estimate_block(rows, request.position, num_places)
        logits = head.begin(estimates[-num_places:])
        for _ in range(num_places):
            yield logits.next(drafted[-1] if drafted else None)

    def _estimates(self, state: _Sequence, token_ids: Sequence[int], position: int) -> Rows:
        """Estimated rows `[T, H]` that enter the head, of tokens at `position`."""
        ids = checked_token_ids(token_ids, self.vocab_size)
        check_span(position, len(ids), state.num_tokens, self.max_context_tokens)
        rows = self._shallow(state, ids, position, is_draft=True)
        assert state.adapter is not None
        estimates = state.adapter.estimate(rows, position)
        if state.output_cache is None or self._has_published_head:
            return estimates
        check_span(position, len(ids), state.output_cache.num_tokens, self.max_context_tokens)
        return state.output_cache.run(estimates, position)

    def prepare_draft(self, sequence: SequenceId, num_rows: int) -> bool:
        adapter = self._sequence(sequence).adapter
        return adapter is not None and adapter.prepare(num_rows)

    def fork(self, sequence: SequenceId, num_tokens: int) -> SequenceId:
        state = self._sequence(sequence)
        check_fork(num_tokens, state.num_tokens)
        copy = _Sequence(num_tokens)
        if state.output_cache is not None:
            check_fork(num_tokens, state.output_cache.num_tokens)
            copy.output_cache = state.output_cache.fork(num_tokens)
        if state.input_cache is not None:
            copy.input_cache = state.input_cache.fork(num_tokens)
        if state.adapter is not None:
            copy.adapter = state.adapter.fork(num_tokens)
        return self._add(copy)

    def release(self, sequence: SequenceId) -> None:
        self._sequence(sequence)
        del self._sequences[sequence]

    def _add(self, state: _Sequence) -> SequenceId:
        sequence = SequenceId(next(self._ids))
        self._sequences[sequence] = state
        return sequence

    def _sequence(self, sequence: SequenceId) -> _Sequence:
        if sequence not in self._sequences:
            raise ValueError(f"expected an open sequence, got {sequence}")
        return self._sequences[sequence]
