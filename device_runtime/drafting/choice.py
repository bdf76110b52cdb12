"""Which drafter a generation gets, and who says how long its drafts are."""

from dataclasses import dataclass
from typing import Literal

from device_runtime.config import DeviceConfig
from device_runtime.drafting.adapter import AdapterDrafter
from device_runtime.drafting.ahead import AheadSwitch
from device_runtime.drafting.medusa import Heads, MedusaDrafter
from device_runtime.drafting.ngram import NgramDrafter
from device_runtime.drafting.protocol import Drafter, NoDrafter
from device_runtime.engines.engine import DraftLimits
from device_runtime.sampling.sampler import Sampler
from device_runtime.session.draft_length import DraftLength, FixedDraftLength, GoodputDraftLength
from process.world import Clock

_NGRAM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Drafting:
    """How one generation drafts, and how much at a time."""

    drafter: Drafter
    length: DraftLength


def drafter_name(
    config: DeviceConfig, limits: DraftLimits | None
) -> Literal["none", "adapter", "ngram", "medusa"]:
    """As configured; `auto` takes the adapter if the engine has one, else prompt lookup."""
    if config.drafter in ("none", "medusa"):
        return config.drafter
    return "adapter" if config.drafter != "ngram" and limits is not None else "ngram"


def choose_drafting(
    config: DeviceConfig,
    limits: DraftLimits | None,
    sampler: Sampler,
    stop_token_ids: frozenset[int],
    clock: Clock,
    heads: Heads | None = None,
) -> Drafting:
    """The drafter that `drafter_name` names, for one generation."""

    def bounded(most: int) -> int:
        return most if config.draft_tokens is None else min(most, config.draft_tokens)

    name = drafter_name(config, limits)
    if name == "medusa":
        assert heads is not None, "loaded when configured"
        return Drafting(MedusaDrafter(heads, sampler), GoodputDraftLength(bounded(heads.num_heads)))
    if name == "none":
        return Drafting(NoDrafter(), FixedDraftLength(0))
    if name == "adapter" and limits is not None:
        most = bounded(limits.max_tokens)
        switch = AheadSwitch(config.draft_ahead == "auto" and config.pipelining == "off")
        adapter = AdapterDrafter(sampler, stop_token_ids, switch, clock)
        length = FixedDraftLength(most) if limits.are_all else GoodputDraftLength(most)
        return Drafting(adapter, length)
    most = _NGRAM_TOKENS if config.draft_tokens is None else config.draft_tokens
    return Drafting(NgramDrafter(), GoodputDraftLength(most))
