"""What `train` and `evaluate` are asked to do, and what they say on the way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from adapters.data.corpus import Windows
from adapters.storage import DraftCost, Kind

Lookup = Callable[[Sequence[int], int], Sequence[int]]
"""A text and a number of tokens, to at most so many that prompt lookup drafts behind it."""

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
class Recipe:
    """How to train. Defaults are those measured in docs/adapters.md.

    One step takes `batch_windows` windows; the learning rate rises for `warmup_steps` to `peak_lr`
    and falls along a cosine to 1 % of it at the end: the last of `steps`, or when the time is up
    where a training has one; `steps` are then the most it may take. The loss is SmoothL1 between
    states after the final norm, plus `token_weight` times the cross-entropy to the target's
    distribution, as in the HAT paper.
    """

    steps: int
    batch_windows: int = 4
    peak_lr: float = 1e-2
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    token_weight: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_windows < 1:
            raise ValueError(
                f"expected 1 or more steps and windows in a step, got {self.steps} and "
                f"{self.batch_windows}"
            )

    def learning_rate(self, step: int, used_share: float = 0.0) -> float:
        """The rate of step `step`, counted from 0, when that share of the time is used."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        done = min(1.0, max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        done = min(1.0, max(done, used_share))
        return self.peak_lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def windows_of(self, step: int, num_windows: int) -> list[int]:
        """Which windows step `step` takes: a new order in every pass, a function of the seed."""
        per_pass = max(1, num_windows // self.batch_windows)
        order = np.random.Generator(np.random.Philox([self.seed, step // per_pass]))
        shuffled = order.permutation(num_windows)
        start = step % per_pass * self.batch_windows
        return [int(index) for index in shuffled[start : start + self.batch_windows]]


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
