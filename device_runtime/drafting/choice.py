"""Which drafter a generation gets, and who says how long its drafts are."""

from dataclasses import dataclass
from typing import Literal

from adapters.medusa_heads import MedusaHeads
from device_runtime.config import DeviceConfig
from device_runtime.drafting.adapter import AdapterDrafter
from device_runtime.drafting.ahead import AheadSwitch
from device_runtime.drafting.medusa import MedusaDrafter
from device_runtime.drafting.policy import Drafter, NgramDrafter, NoDrafter
from device_runtime.engines.engine import DraftLimits
from device_runtime.sampling.sampler import Sampler
from device_runtime.session.draft_length import DraftLength, FixedDraftLength, GoodputDraftLength

_NGRAM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Drafting:
    """How one generation drafts: by adapter or heads if it has any, else by its `drafter`."""

    drafter: Drafter
    length: DraftLength
    adapter: AdapterDrafter | None = None
    ahead: AheadSwitch | None = None
    """None: never drafts ahead."""
    medusa: MedusaDrafter | None = None


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
    heads: MedusaHeads | None = None,
) -> Drafting:
    """The drafter that `drafter_name` names, for one generation."""
    name = drafter_name(config, limits)
    if name == "medusa":
        assert heads is not None, "loaded when configured"
        most = heads.num_heads
        if config.draft_tokens is not None:
            most = min(most, config.draft_tokens)
        medusa = MedusaDrafter(heads, sampler)
        return Drafting(NoDrafter(), GoodputDraftLength(most), medusa=medusa)
    if name == "none":
        return Drafting(NoDrafter(), FixedDraftLength(0))
    if name == "adapter" and limits is not None:
        most = limits.max_tokens
        if config.draft_tokens is not None:
            most = min(most, config.draft_tokens)
        adapter = AdapterDrafter(sampler, stop_token_ids)
        ahead = AheadSwitch() if config.draft_ahead == "auto" else None
        length = FixedDraftLength(most) if limits.are_all else GoodputDraftLength(most)
        return Drafting(NoDrafter(), length, adapter, ahead)
    most = _NGRAM_TOKENS if config.draft_tokens is None else config.draft_tokens
    return Drafting(NgramDrafter(), GoodputDraftLength(most))
