"""The drafting adapter that a device bundle brings."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.storage import (
    CARD_FILE,
    CARRY,
    MASK,
    WEIGHTS_FILE,
    StoredAdapter,
    TrainingFigures,
    load_adapter,
    load_card,
)
from device_runtime.engines.block_adapter import BlockAdapter, Tail
from device_runtime.engines.draft_model import AdapterState, LaggingAdapter
from device_runtime.engines.engine import DraftLimits, Rows, StackCache
from device_runtime.engines.fed_adapter import FedAdapter
from device_runtime.engines.head_adapter import Features, HeadAdapter, HeadReads, SparseCache
from submodels.bundle.bundle import Bundle
from submodels.errors import BundleError


def stored_adapter(bundle: Bundle) -> StoredAdapter | None:
    """The bundle's adapter; None when it has none.

    Raises:
        AdapterError, BundleError: it has one that is corrupt, or for another model or split.
    """
    if CARD_FILE not in bundle.manifest.files:
        return None
    if WEIGHTS_FILE not in bundle.manifest.files:
        raise BundleError(f"{bundle.path} lists {CARD_FILE} and not {WEIGHTS_FILE}")
    return load_adapter(bundle.path, bundle.manifest)


def recorded_figures(bundle: Bundle) -> TrainingFigures | None:
    """What the bundle's adapter was measured at; None when there is no adapter.

    Raises:
        AdapterError: its card cannot be read.
    """
    if CARD_FILE not in bundle.manifest.files:
        return None
    return load_card(bundle.path).training


def drafter_reason(bundle: Bundle) -> str:
    """What adapter and prompt lookup were measured at when the adapter was trained, or nothing."""
    figures = recorded_figures(bundle)
    if figures is None or figures.ngram_tokens_per_round is None:
        return ""
    return (
        f" (tokens per round when trained: adapter {figures.stopped_tokens_per_round:.2f}, "
        f"ngram {figures.ngram_tokens_per_round:.2f})"
    )


@dataclass(frozen=True, slots=True)
class LoneQuality:
    """How good the draft model is by itself, as far as its adapter's card says."""

    tokens_per_round: float | None
    """Greedy on held-out text, with drafts of `draft_tokens`."""
    draft_tokens: int

    @property
    def acceptance(self) -> float | None:
        """The share of its tokens that the model itself would have written, behind the model's own.

        With a share a at every place a draft of k tokens gives `1 + a + ... + a^k` tokens a round;
        this is the a that gives as many as were measured.
        """
        if self.tokens_per_round is None:
            return None
        low, high = 0.0, 1.0
        for _ in range(40):
            share = (low + high) / 2
            given = sum(share**place for place in range(self.draft_tokens + 1))
            low, high = (share, high) if given < self.tokens_per_round else (low, share)
        return (low + high) / 2


def lone_quality(bundle: Bundle) -> LoneQuality:
    """What the card of a bundle's adapter says of its draft model.

    Raises:
        AdapterError: its card cannot be read.
    """
    card = load_card(bundle.path)
    training = card.training
    return LoneQuality(
        None if training is None else training.tokens_per_round, card.max_draft_tokens
    )


def draft_limits(stored: StoredAdapter) -> DraftLimits:
    """Where drafts of this adapter end, as calibrated when it was trained."""
    card = stored.card
    pass_tokens = card.max_draft_tokens if card.kind == "block" else 1
    return DraftLimits(
        card.stop_threshold,
        card.max_draft_tokens,
        pass_tokens=pass_tokens,
        # A block begins behind a token that was decided, and a published head reads rows of the
        # cloud's.
        may_stand_alone=card.kind in ("attention", "layer", "fed"),
    )


def draft_vocabulary(stored: StoredAdapter) -> NDArray[np.int64] | None:
    """The token ids `[k]`, ascending, that this adapter can draft; None: all."""
    ids = stored.draft_vocabulary()
    return None if ids is None else ids.astype(np.int64)


def head_reads(stored: StoredAdapter) -> HeadReads:
    """What a published head reads of the model."""
    head, num_input = stored.card.head, stored.card.num_input_layers
    if head is None or stored.card.kind != "eagle3":
        return HeadReads()
    taps = sum(1 << depth for depth in head.depths if depth > num_input)
    return HeadReads(taps, num_input in head.depths)


def new_head_state(
    bundle: Bundle, new_cache: Callable[[], StackCache], features: Features, reads: HeadReads
) -> Callable[[], AdapterState]:
    """What makes a sequence's state of a published head."""
    comes_whole = bundle.manifest.num_output_layers > 0

    def new_state() -> HeadAdapter:
        fed = FedAdapter(SparseCache(new_cache()), comes_whole)
        return HeadAdapter(fed, features, reads)

    return new_state


def new_adapter_state(
    bundle: Bundle, stored: StoredAdapter, new_cache: Callable[[], StackCache]
) -> Callable[[], AdapterState]:
    """What makes a sequence's state of this adapter, whose empty caches `new_cache` makes."""
    assert stored.card.head is None, "published heads have a state of their own"
    if stored.card.kind == "block":
        tail = _tail(stored)
        return lambda: BlockAdapter(new_cache(), tail)
    if stored.card.kind != "fed":
        return lambda: LaggingAdapter(new_cache())
    # Output layers on the device want the deep rows of all positions.
    comes_whole = bundle.manifest.num_output_layers > 0
    return lambda: FedAdapter(new_cache(), comes_whole)


def _tail(stored: StoredAdapter) -> Tail:
    """What stands for the shallow rows of a block's tokens."""
    tensors = stored.tensors()
    mask, carry = (np.array(tensors.read(name)) for name in (MASK, CARRY))

    def tail(shallow: Rows) -> Rows:
        rows: Rows = shallow * carry + mask
        return rows

    return tail
