"""Which drafter a generation gets, and who says how long its drafts are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from device_runtime.config import DeviceConfig
from device_runtime.drafting.adapter import AdapterDrafter
from device_runtime.drafting.ahead import AheadSwitch
from device_runtime.drafting.medusa import Heads, MedusaDrafter
from device_runtime.drafting.ngram import NgramDrafter
from device_runtime.drafting.protocol import Drafter, NoDrafter
from device_runtime.drafting.suffix.drafter import SuffixDrafter
from device_runtime.drafting.suffix.guessing import MOST_GUESSES
from device_runtime.drafting.suffix.memory import SuffixMemory
from device_runtime.engines.engine import DraftLimits, Workers
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
) -> Literal["none", "adapter", "suffix", "ngram", "medusa"]:
    """As configured; `auto` takes the adapter if the engine has one, else prompt lookup."""
    if config.drafter in ("none", "medusa", "suffix"):
        return config.drafter
    return "adapter" if config.drafter != "ngram" and limits is not None else "ngram"


class Drafters:
    """The drafters of one runtime, and what its generations leave behind for later ones."""

    def __init__(
        self, config: DeviceConfig, workers: Workers, clock: Clock, heads: Heads | None = None
    ) -> None:
        self._config = config
        self._workers = workers
        self._clock = clock
        self._heads = heads
        self._memory: SuffixMemory | None = None
        if self.name == "suffix" and config.suffix_memory_tokens > 0:
            self._memory = SuffixMemory(config.suffix_memory_tokens)

    @property
    def name(self) -> str:
        """What drafts here."""
        return drafter_name(self._config, self._workers.engine.draft_limits)

    def drafting(self, sampler: Sampler, stop_token_ids: frozenset[int]) -> Drafting:
        """The drafter that `drafter_name` names, for one generation."""
        limits = self._workers.engine.draft_limits
        match self.name:
            case "none":
                return Drafting(NoDrafter(), FixedDraftLength(0))
            case "medusa":
                assert self._heads is not None, "loaded when configured"
                most = self._bounded(self._heads.num_heads)
                return Drafting(MedusaDrafter(self._heads, sampler), GoodputDraftLength(most))
            case "adapter" if limits is not None:
                most = self._bounded(limits.max_tokens)
                is_ahead = self._config.draft_ahead == "auto" and self._config.pipelining == "off"
                switch = AheadSwitch(is_ahead)
                adapter = AdapterDrafter(sampler, stop_token_ids, switch, self._clock)
                length = FixedDraftLength(most) if limits.are_all else GoodputDraftLength(most)
                return Drafting(adapter, length)
            case "suffix":
                most = self._bounded(MOST_GUESSES)
                return Drafting(SuffixDrafter(self._memory), GoodputDraftLength(most))
            case _:
                most = self._config.draft_tokens or _NGRAM_TOKENS
                return Drafting(NgramDrafter(), GoodputDraftLength(most))

    def remember(self, text: Sequence[int]) -> None:
        """Keep a finished request's text for later drafts, where texts are kept."""
        memory = self._memory
        if memory is not None:
            kept = tuple(text)
            self._workers.run_later(lambda _: memory.remember(kept))

    def _bounded(self, most: int) -> int:
        return min(most, self._config.draft_tokens or most)
