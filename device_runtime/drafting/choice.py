"""Which drafters a generation gets, and who says which of them drafts how much."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from device_runtime.config import DeviceConfig
from device_runtime.drafting.adapter import AdapterDrafter
from device_runtime.drafting.ahead import AheadSwitch
from device_runtime.drafting.combined import CombinedDrafter, Guesser, Stepper, Target
from device_runtime.drafting.forced import ForcedDrafter
from device_runtime.drafting.medusa import Heads, MedusaDrafter
from device_runtime.drafting.ngram import NGRAM_CHANCES, NgramGuesses
from device_runtime.drafting.policy.kind import sampling_kind
from device_runtime.drafting.policy.lessons import Lessons
from device_runtime.drafting.policy.policy import DraftPolicy
from device_runtime.drafting.protocol import Drafter, NoDrafter
from device_runtime.drafting.suffix.guesses import SuffixGuesses
from device_runtime.drafting.suffix.guessing import MOST_GUESSES, SUFFIX_CHANCES
from device_runtime.drafting.suffix.memory import SuffixMemory
from device_runtime.engines.engine import DraftLimits, Workers
from device_runtime.generation.stats import DraftCounts
from device_runtime.sampling.sampler import Sampler
from device_runtime.session.draft_length import DraftLength, FixedDraftLength
from process.world import Clock

DrafterName = Literal["none", "adapter", "suffix", "ngram", "medusa"]

_NGRAM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Drafting:
    """How one generation drafts, how much at a time, and what came of it by drafter."""

    drafter: Drafter
    length: DraftLength
    drafted_by: Mapping[str, DraftCounts] = field(default_factory=dict)


def drafter_names(config: DeviceConfig, limits: DraftLimits | None) -> tuple[DrafterName, ...]:
    """As configured; `auto` takes the adapter if the engine has one, and suffix drafts."""
    has_adapter = limits is not None
    match config.drafter:
        case "none":
            return ()
        case "auto":
            # Where drafts are asked for whole, whatever they bring, nothing is to be chosen.
            is_whole = limits is not None and limits.are_all
            both: tuple[DrafterName, ...] = ("adapter", "suffix") if has_adapter else ("suffix",)
            return both[:1] if is_whole else both
        case "adapter":
            return ("adapter",) if has_adapter else ("ngram",)
        case name:
            return (name,)


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
        if "suffix" in self.names and config.suffix_memory_tokens > 0:
            self._memory = SuffixMemory(config.suffix_memory_tokens)
        self._lessons = Lessons(SUFFIX_CHANCES if "suffix" in self.names else NGRAM_CHANCES)

    @property
    def names(self) -> tuple[DrafterName, ...]:
        """What drafts here."""
        return drafter_names(self._config, self._workers.engine.draft_limits)

    def drafting(self, sampler: Sampler, stop_token_ids: frozenset[int]) -> Drafting:
        """The drafters that `drafter_names` names, for one generation.

        What a grammar forces is drafted before all of them, also where none is named.
        """
        drafting = self._named(sampler, stop_token_ids)
        if sampler.constraint is None:
            return drafting
        forced = ForcedDrafter(sampler.constraint, drafting.drafter, drafting.length)
        return Drafting(forced, forced, {**drafting.drafted_by, "grammar": forced.counts})

    def _named(self, sampler: Sampler, stop_token_ids: frozenset[int]) -> Drafting:
        names = self.names
        if not names:
            return Drafting(NoDrafter(), FixedDraftLength(0))
        num_steps, stepper = self._stepper(sampler, stop_token_ids)
        limits = self._workers.engine.draft_limits
        if isinstance(stepper, AdapterDrafter) and limits is not None and limits.are_all:
            return Drafting(stepper, FixedDraftLength(num_steps))
        num_guesses, guesser = self._guesser()
        kind = sampling_kind(sampler.params)
        policy = DraftPolicy(self._lessons, num_steps, kind, self._pass_tokens(stepper))
        most = self._bounded(num_guesses + num_steps)
        is_penalised = sampler.is_penalised if kind.is_penalised else None
        target = Target(is_penalised, stop_token_ids, sampler.constraint)
        combined = CombinedDrafter(policy, most, self._clock, guesser, stepper, target)
        counts: dict[str, DraftCounts] = {
            name: combined.guessed if name in ("suffix", "ngram") else combined.stepped
            for name in names
        }
        return Drafting(combined, combined, counts)

    def remember(self, text: Sequence[int]) -> None:
        """Keep a finished request's text for later drafts, where texts are kept."""
        memory = self._memory
        if memory is not None:
            kept = tuple(text)
            self._workers.run_later(lambda _: memory.remember(kept))

    def _guesser(self) -> tuple[int, Guesser | None]:
        """What guesses, if anything does, and the most guesses of a draft."""
        if "suffix" in self.names:
            return MOST_GUESSES, SuffixGuesses(self._memory)
        if "ngram" in self.names:
            most = self._config.draft_tokens or _NGRAM_TOKENS
            return most, NgramGuesses(most)
        return 0, None

    def _stepper(
        self, sampler: Sampler, stop_token_ids: frozenset[int]
    ) -> tuple[int, Stepper | None]:
        """What computes drafts, if anything does, and the most steps of a draft."""
        limits = self._workers.engine.draft_limits
        if "medusa" in self.names:
            assert self._heads is not None, "loaded when configured"
            return self._bounded(self._heads.num_heads), MedusaDrafter(self._heads, sampler)
        if "adapter" in self.names and limits is not None:
            is_ahead = self._config.draft_ahead == "auto" and self._config.pipelining == "off"
            switch = AheadSwitch(is_ahead)
            adapter = AdapterDrafter(sampler, stop_token_ids, switch, self._clock)
            return self._bounded(limits.max_tokens), adapter
        return 0, None

    def _pass_tokens(self, stepper: Stepper | None) -> int:
        """Tokens that one pass of the drafter that computes gives."""
        limits = self._workers.engine.draft_limits
        if isinstance(stepper, MedusaDrafter):
            return stepper.num_heads
        return 1 if limits is None else limits.pass_tokens

    def _bounded(self, most: int) -> int:
        return min(most, self._config.draft_tokens or most)
