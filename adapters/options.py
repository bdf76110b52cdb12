"""What `train` and `evaluate` are asked to do, and what they say on the way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from adapters.data.corpus import Windows
from adapters.draft_cost import DraftCost
from adapters.storage import Kind

Lookup = Callable[[Sequence[int], int], Sequence[int]]
"""A text and a number of tokens, to at most so many that prompt lookup drafts behind it."""

Stage = Literal["writing", "states", "start", "training", "calibration", "evaluation"]


CostOf = Callable[[Path], DraftCost]
"""What drafting with the adapter in a folder costs on the device."""


def assumed_cost(adapter: Path) -> DraftCost:
    """Where nobody has measured it."""
    return DraftCost()


@dataclass(frozen=True, slots=True)
class StageProgress:
    """Where the work is: `done` of `total` windows, steps or prompts; `loss` while training.

    Of a training by minutes `total` is what is expected at the pace so far.
    """

    stage: Stage
    done: int
    total: int
    loss: float | None = None
    tokens_per_round: float | None = None
    """On held-out text, at the last look while training."""


Progress = Callable[[StageProgress], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. Defaults are those measured in docs/adapters.md."""

    steps: int
    """How many; the most it may take where a training has a time."""
    batch_windows: int = 3
    """Texts in one step."""
    peak_lr: float = 2e-3
    """The highest learning rate. It falls along a cosine to 1 % of it at the end."""
    warmup_steps: int = 40
    """Steps in which the learning rate rises to its peak."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    """A gradient longer than this is scaled down to it."""
    token_weight: float = 0.5
    """Of the cross-entropy to the target's distribution."""
    variation_weight: float = 0.5
    """Of the total variation between both, which is the share of drafts that are refused."""
    state_weight: float = 0.0
    """Of the SmoothL1 between states after the final norm; the HAT paper has 1, with a token weight
    of 0.1 and no total variation."""
    self_steps: int = 2
    """Positions of a chain that a fed adapter is trained on; the others' steps are all alike."""
    step_decay: float = 0.8
    """Weight of a position of a chain, as a share of that of the one before."""
    earlier_share: float = 0.5
    """Of conversations with several answers, this share learns from all of them; the others from
    the last one, with what comes before as a prompt."""
    all_fed_share: float = 0.05
    """Of texts, this share is fed every deep row, those of prompts too, as output layers on the
    device have them."""
    number_format: Literal["float32", "bfloat16"] = "float32"
    """What products are computed in; weights are float32 in any case. `train` puts here what its
    options' number format comes to."""
    closed_form: bool = True
    """Solve for a start where that is better than a layer of the model."""
    evaluate_every: int = 200
    """Steps between two looks at held-out texts; 0: none."""
    patience: int = 15
    """Looks in a row that bring nothing before a training ends."""
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

    def batch_order(self, pass_index: int, num_batches: int) -> list[int]:
        """The batches of one pass: a new order in every pass, a function of the seed."""
        generator = np.random.Generator(np.random.Philox([self.seed, pass_index]))
        return [int(index) for index in generator.permutation(num_batches)]

    def windows_of(self, step: int, num_windows: int) -> list[int]:
        """Which windows step `step` takes: a new order in every pass, a function of the seed."""
        per_pass = max(1, num_windows // self.batch_windows)
        order = np.random.Generator(np.random.Philox([self.seed, step // per_pass]))
        shuffled = order.permutation(num_windows)
        start = step % per_pass * self.batch_windows
        return [int(index) for index in shuffled[start : start + self.batch_windows]]


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What to draft on: beginnings of stories, and what the target writes after them."""

    num_prompts: int = 160
    prompt_tokens: tuple[int, ...] = (32, 128)
    """How long the beginnings are, in turn."""
    continuation_tokens: int = 100
    """What the target writes at most after each; a draft starts at every token of it."""
    max_draft_tokens: int = 6
    seed: int = 0
    """Of sampled text."""

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
    """What to evaluate, and on which text."""

    device_bundle: Path
    cloud_bundle: Path
    text: tuple[Path, ...]
    adapter: Path | None = None
    """None: the one in the device bundle."""
    trials: TrialOptions = field(default_factory=TrialOptions)
    cost_of: CostOf = assumed_cost
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What to train, on which text, for how long."""

    device_bundle: Path
    cloud_bundle: Path
    work: Path
    """Keeps states and checkpoint: the same options resume an interrupted training there."""
    lookup: Lookup
    """How the device drafts without an adapter."""
    text: tuple[Path, ...] = ()
    """What it learns from."""
    conversations: Path | None = None
    """It learns from these instead, every twentieth of which is kept out for calibration."""
    lookup_tokens: int = 4
    """How long such drafts are."""
    held_out: tuple[Path, ...] = ()
    """What the stop threshold is calibrated on; if none, every twentieth story of `text`, which is
    kept out of the training then."""
    kind: Kind = "fed"
    closing_norm: bool | None = None
    """None: yes for attention (the paper's second norm), no for the others."""
    minutes: float | None = None
    """Of the steps alone; `recipe.steps` does not count then."""
    recipe: Recipe = field(default_factory=lambda: Recipe(steps=1800))
    windows: Windows = field(default_factory=Windows)
    max_state_bytes: int = 4 << 30
    """Of features on disk. With more text than fits, each pass computes them part by part."""
    number_format: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the whole model's pass over the texts, and the steps, are computed in; auto: whichever
    is faster here."""
    wide_states: bool = False
    """Rows in float32 instead of float16."""
    coverage: float = 0.98
    """The draft vocabulary has the answers' most frequent tokens: so many that they are this share
    of what held-out answers say ..."""
    max_draft_vocabulary: int = 12288
    """... and so many; a model with no more tokens than that drafts them all."""
    checkpoint_every_s: float = 60.0
    calibration: TrialOptions = field(default_factory=lambda: TrialOptions(num_prompts=24))
    cost_of: CostOf = assumed_cost
    out: Path | None = None
    """None: the folder `adapter` in `work`."""
    device: str = "cpu"

    @property
    def out_folder(self) -> Path:
        """Where the trained adapter is written to."""
        return self.out or self.work / "adapter"

    @property
    def has_closing_norm(self) -> bool:
        """Whether the adapter ends in a norm of its own."""
        return self.kind == "attention" if self.closing_norm is None else self.closing_norm
