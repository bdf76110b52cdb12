"""One training from its first step, or from its checkpoint, to its last."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from adapters.data.draft_head import DraftHead
from adapters.data.features import FeatureBatch, FeatureFile
from adapters.data.sample import Sample, samples_key
from adapters.data.whole_model import WholeModel
from adapters.networks import AdapterNetwork, build_network, start_as
from adapters.options import Progress, Recipe, StageProgress, TrainOptions
from adapters.storage import Ended, adapter_shape
from adapters.training.checkpoint import TrainingProgress, read_progress, restore, save_checkpoint
from adapters.training.learning.closed_form import solve_start
from adapters.training.learning.descent import smoothed
from adapters.training.learning.distillation import Distillation, chain_loss
from adapters.training.learning.held_out import held_out_tokens_per_round
from adapters.training.order import TrainingOrder

# More of the same text teaches nothing; a training by minutes ends there.
_MAX_PASSES = 60


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What is looked at now and then."""

    features: FeatureFile
    num_samples: int

    def tokens_per_round(
        self, network: AdapterNetwork, head: DraftHead, options: TrainOptions
    ) -> float:
        """See `held_out_tokens_per_round`."""
        size = options.recipe.batch_windows
        indices = range(self.num_samples)
        batches = [indices[at : at + size] for at in range(0, len(indices), size)]
        most = options.calibration.max_draft_tokens
        network.eval()
        tokens = held_out_tokens_per_round(network, head, self.features, batches, most)
        network.train()
        return tokens


@dataclass(frozen=True, slots=True)
class Fitting:
    """What a training works on. `clock` is monotonic, in seconds; only steps count against it."""

    options: TrainOptions
    model: WholeModel
    head: DraftHead
    order: TrainingOrder
    key: str
    """See `training_key`."""
    held_out: HeldOut
    progress: Progress
    clock: Callable[[], float]

    def run(self) -> tuple[AdapterNetwork, TrainingProgress]:
        """Train to the last step, saving now and then; the network, and how it went."""
        distillation, at = self._resume() or self._begin()
        watch = _StopWatch(self.clock, at)
        saved_s = self.clock()
        for loss in distillation.run(at.recipe, lambda: watch.used_share):
            at = msgspec.structs.replace(
                at,
                step=distillation.step,
                training_s=watch.training_s,
                recent_loss=smoothed(at.recent_loss, loss, at.step),
            )
            at = self._looked_at(distillation, at)
            watch.is_over = at.is_flat
            self._report(at)
            if self.clock() - saved_s > self.options.checkpoint_every_s:
                save_checkpoint(self.options.work, distillation, at)
                saved_s = self.clock()
        # At least all of the minutes, so that a finished training is not gone on with.
        at = msgspec.structs.replace(at, training_s=watch.training_s)
        save_checkpoint(self.options.work, distillation, at)
        return distillation.network.eval(), at

    def _looked_at(self, distillation: Distillation, at: TrainingProgress) -> TrainingProgress:
        """The progress with a look at held-out texts, every so many steps and at the last."""
        every = at.recipe.evaluate_every
        if not every or (at.step % every and at.step < at.recipe.steps):
            return at
        tokens = self.held_out.tokens_per_round(distillation.network, self.head, self.options)
        history = [*at.history, (at.step, at.recent_loss, tokens)]
        return msgspec.structs.replace(at, history=history)

    def _report(self, at: TrainingProgress) -> None:
        tokens = at.history[-1][2] if at.history else None
        total = _expected_steps(at)
        self.progress(StageProgress("training", at.step, total, at.recent_loss, tokens))

    def _begin(self) -> tuple[Distillation, TrainingProgress]:
        distillation = self._new()
        if self.options.recipe.closed_form:
            self._solve_start(distillation.network)
        return distillation, TrainingProgress(
            kind=self.options.kind,
            closing_norm=self.options.has_closing_norm,
            states_key=self.key,
            recipe=bounded_recipe(self.options, self.order),
            step=0,
            training_s=0.0,
            recent_loss=0.0,
            minutes=self.options.minutes,
        )

    def _solve_start(self, network: AdapterNetwork) -> None:
        """Give the network the better start: the layer that it began as, or the solved one."""
        recipe, began = self.options.recipe, copy.deepcopy(network.state_dict())
        some = next(self._batches())
        with torch.no_grad():
            before = float(chain_loss(network, self.head, some, recipe))
        start_as(network, self.model.middle_layers[-1])
        self.progress(StageProgress("start", 0, 2))
        done = 0

        def ended() -> None:
            nonlocal done
            done += 1
            self.progress(StageProgress("start", done, 2))

        solve_start(network, self._batches, ended)
        with torch.no_grad():
            after = float(chain_loss(network, self.head, some, recipe))
        if not after < before:
            network.load_state_dict(began)

    def _batches(self) -> Iterator[FeatureBatch]:
        """The first pass, without its end of a corpus that is computed part by part."""
        recipe, device = self.options.recipe, self.head.weight.device
        for step in range(self.order.steps_of_first_part):
            features, indices = self.order.at(step, recipe)
            yield features.batch(indices, device)

    def _resume(self) -> tuple[Distillation, TrainingProgress] | None:
        """The checkpoint in the work folder, if these very options wrote it."""
        at = resumable(self.options, self.order, self.key)
        if at is None:
            return None
        distillation = self._new()
        return (distillation, at) if restore(self.options.work, distillation, at) else None

    def _new(self) -> Distillation:
        return new_distillation(self.options, self.model, self.head, self.order)


class _StopWatch:
    """The seconds that steps have taken, those before an interruption included."""

    def __init__(self, clock: Callable[[], float], at: TrainingProgress) -> None:
        self._clock = clock
        self._minutes = at.minutes
        self._began_s = clock() - at.training_s
        self.is_over = at.is_flat
        """More time would bring nothing."""

    @property
    def training_s(self) -> float:
        """Used so far."""
        return self._clock() - self._began_s

    @property
    def used_share(self) -> float:
        """Which part of the minutes is used; 0 where only the steps are bounded."""
        if self.is_over:
            return 1.0
        return 0.0 if self._minutes is None else self.training_s / (60 * self._minutes)


def new_distillation(
    options: TrainOptions, model: WholeModel, head: DraftHead, order: TrainingOrder
) -> Distillation:
    """A training before its first step."""
    shape = adapter_shape(model.manifest.shape)
    network = build_network(
        options.kind,
        shape,
        options.has_closing_norm,
        options.recipe.seed,
        options.calibration.max_draft_tokens,
    )
    start_as(network, model.middle_layers[0])
    return Distillation(network.to(options.device), head, order)


def training_key(
    model: WholeModel, samples: Sequence[Sample], vocabulary: NDArray[np.int32] | None
) -> str:
    """What a training works on, as a SHA-256 (hex): model, split, tokens, draft vocabulary."""
    manifest = model.manifest
    split = (manifest.fingerprint, manifest.num_input_layers, manifest.num_output_layers)
    ids = None if vocabulary is None else vocabulary.tolist()
    return hashlib.sha256(repr((split, samples_key(samples), ids)).encode()).hexdigest()


def resumable(options: TrainOptions, order: TrainingOrder, key: str) -> TrainingProgress | None:
    """How far the training in the work folder is, if these very options began it."""
    at = read_progress(options.work)
    if at is None or at.states_key != key:
        return None
    wanted = (options.kind, options.has_closing_norm, options.minutes)
    same = (at.kind, at.closing_norm, at.minutes) == wanted
    return at if same and at.recipe == bounded_recipe(options, order) else None


def why_ended(at: TrainingProgress) -> Ended:
    """What was used up first."""
    if at.is_flat:
        return "flat"
    if at.minutes is None:
        return "steps"
    return "passes" if at.step >= at.recipe.steps else "minutes"


def bounded_recipe(options: TrainOptions, order: TrainingOrder) -> Recipe:
    """The recipe; of a training by minutes, with the most steps that the text is good for."""
    if options.minutes is None:
        return options.recipe
    return replace(options.recipe, steps=_MAX_PASSES * order.steps_per_pass)


def _expected_steps(at: TrainingProgress) -> int:
    """How many steps there will be in all, at the pace so far."""
    if at.minutes is None or at.training_s <= 0:
        return at.recipe.steps
    in_time = round(at.step * 60 * at.minutes / at.training_s)
    return max(at.step, min(at.recipe.steps, in_time))
