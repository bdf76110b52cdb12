"""What `train` and `evaluate` are asked to do, and what they say on the way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adapters.comparison import Lookup
from adapters.data.corpus import Windows
from adapters.distill import Recipe
from adapters.storage import DraftCost, Kind

Stage = Literal["states", "training", "calibration", "evaluation"]


@dataclass(frozen=True, slots=True)
class StageProgress:
    """Where the work is: `done` of `total` windows, steps or prompts; `loss` while training.

    Of a training by minutes `total` is what is expected at the pace so far.
    """

    stage: Stage
    done: int
    total: int
    loss: float | None = None


Progress = Callable[[StageProgress], None]


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What to draft on: beginnings of stories, in turn of each of these lengths in tokens.

    After each prompt the target writes up to `continuation_tokens`; a draft starts at every one
    of them. `seed` is that of sampled text.
    """

    num_prompts: int = 160
    prompt_tokens: tuple[int, ...] = (32, 128)
    continuation_tokens: int = 100
    max_draft_tokens: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.num_prompts, *self.prompt_tokens, self.max_draft_tokens)
        if not self.prompt_tokens or min(counts) < 1:
            raise ValueError(f"expected prompts, their tokens and drafts of 1 or more: {self}")
        if self.continuation_tokens <= self.max_draft_tokens:
            raise ValueError(
                f"expected a continuation longer than a draft of {self.max_draft_tokens} tokens, "
                f"got {self.continuation_tokens}"
            )


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What to evaluate. `adapter` None is the one in the device bundle."""

    device_bundle: Path
    cloud_bundle: Path
    text: tuple[Path, ...]
    adapter: Path | None = None
    trials: TrialOptions = field(default_factory=TrialOptions)
    cost: DraftCost = field(default_factory=DraftCost)
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What to train. `text` trains, `held_out` calibrates the stop threshold.

    Without `held_out` every twentieth story of `text` is kept out of the training for that.

    `minutes`, where given, are those of the steps alone, and `recipe.steps` does not count then.
    `lookup` is how the device drafts without an adapter, in drafts of `lookup_tokens`. `work` keeps
    states and checkpoint: the same options resume an interrupted training there. `closing_norm`
    None is the kind's own choice: yes for attention (the paper's second norm), no for layer. `out`
    None is the folder `adapter` in `work`.
    """

    device_bundle: Path
    cloud_bundle: Path
    text: tuple[Path, ...]
    work: Path
    lookup: Lookup
    lookup_tokens: int = 4
    held_out: tuple[Path, ...] = ()
    kind: Kind = "layer"
    closing_norm: bool | None = None
    minutes: float | None = None
    recipe: Recipe = field(default_factory=lambda: Recipe(steps=1800))
    windows: Windows = field(default_factory=Windows)
    max_state_bytes: int = 4 << 30
    checkpoint_every_s: float = 60.0
    calibration: TrialOptions = field(default_factory=lambda: TrialOptions(num_prompts=24))
    cost: DraftCost = field(default_factory=DraftCost)
    out: Path | None = None
    device: str = "cpu"

    @property
    def out_folder(self) -> Path:
        """Where the trained adapter is written to."""
        return self.out or self.work / "adapter"

    @property
    def has_closing_norm(self) -> bool:
        """Whether the adapter ends in a norm of its own."""
        return self.kind == "attention" if self.closing_norm is None else self.closing_norm
