"""One training from its first step, or from its checkpoint, to its last."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from adapters.data.corpus import Tokens
from adapters.data.states import StateFile, states_key
from adapters.data.whole_model import WholeModel
from adapters.networks import AdapterNetwork, build_network, start_as
from adapters.options import Progress, Recipe, StageProgress, TrainOptions
from adapters.storage import Ended, adapter_shape
from adapters.training.checkpoint import TrainingProgress, read_progress, restore, save_checkpoint
from adapters.training.descent import smoothed
from adapters.training.distillation import Distillation

# More of the same text teaches nothing; a training by minutes ends there.
_MAX_PASSES = 60


@dataclass(frozen=True, slots=True)
class Fitting:
    """What a training works on. `clock` is monotonic, in seconds; only steps count against it."""

    options: TrainOptions
    model: WholeModel
    windows: list[Tokens]
    states: StateFile
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
            self.progress(StageProgress("training", at.step, _expected_steps(at), at.recent_loss))
            if self.clock() - saved_s > self.options.checkpoint_every_s:
                save_checkpoint(self.options.work, distillation, at)
                saved_s = self.clock()
        # At least all of the minutes, so that a finished training is not gone on with.
        at = msgspec.structs.replace(at, training_s=watch.training_s)
        save_checkpoint(self.options.work, distillation, at)
        return distillation.network.eval(), at

    def _begin(self) -> tuple[Distillation, TrainingProgress]:
        return self._new(), TrainingProgress(
            kind=self.options.kind,
            closing_norm=self.options.has_closing_norm,
            states_key=states_key(self.model.manifest, self.windows),
            recipe=bounded_recipe(self.options, len(self.windows)),
            step=0,
            training_s=0.0,
            recent_loss=0.0,
            minutes=self.options.minutes,
        )

    def _resume(self) -> tuple[Distillation, TrainingProgress] | None:
        """The checkpoint in the work folder, if these very options wrote it."""
        at = resumable(self.options, self.model, self.windows)
        if at is None:
            return None
        distillation = self._new()
        return (distillation, at) if restore(self.options.work, distillation, at) else None

    def _new(self) -> Distillation:
        return new_distillation(self.options, self.model, self.states, len(self.windows))


class _StopWatch:
    """The seconds that steps have taken, those before an interruption included."""

    def __init__(self, clock: Callable[[], float], at: TrainingProgress) -> None:
        self._clock = clock
        self._minutes = at.minutes
        self._began_s = clock() - at.training_s

    @property
    def training_s(self) -> float:
        """Used so far."""
        return self._clock() - self._began_s

    @property
    def used_share(self) -> float:
        """Which part of the minutes is used; 0 where only the steps are bounded."""
        return 0.0 if self._minutes is None else self.training_s / (60 * self._minutes)


def new_distillation(
    options: TrainOptions, model: WholeModel, states: StateFile, num_windows: int
) -> Distillation:
    """A training before its first step."""
    shape = adapter_shape(model.manifest.shape)
    network = build_network(options.kind, shape, options.has_closing_norm, options.recipe.seed)
    start_as(network, model.middle_layers[0])
    return Distillation(network.to(options.device), model, states, num_windows)


def resumable(
    options: TrainOptions, model: WholeModel, windows: list[Tokens]
) -> TrainingProgress | None:
    """How far the training in the work folder is, if these very options began it."""
    at = read_progress(options.work)
    if at is None or at.states_key != states_key(model.manifest, windows):
        return None
    wanted = (options.kind, options.has_closing_norm, options.minutes)
    same = (at.kind, at.closing_norm, at.minutes) == wanted
    return at if same and at.recipe == bounded_recipe(options, len(windows)) else None


def why_ended(at: TrainingProgress) -> Ended:
    """What was used up first."""
    if at.minutes is None:
        return "steps"
    return "passes" if at.step >= at.recipe.steps else "minutes"


def bounded_recipe(options: TrainOptions, num_windows: int) -> Recipe:
    """The recipe; of a training by minutes, with the most steps that the text is good for."""
    if options.minutes is None:
        return options.recipe
    per_pass = max(1, num_windows // options.recipe.batch_windows)
    return replace(options.recipe, steps=_MAX_PASSES * per_pass)


def _expected_steps(at: TrainingProgress) -> int:
    """How many steps there will be in all, at the pace so far."""
    if at.minutes is None or at.training_s <= 0:
        return at.recipe.steps
    in_time = round(at.step * 60 * at.minutes / at.training_s)
    return max(at.step, min(at.recipe.steps, in_time))
