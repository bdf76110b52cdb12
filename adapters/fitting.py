"""One training from its first step, or from its checkpoint, to its last."""

import time
from dataclasses import dataclass, replace

import msgspec

from adapters.checkpoint import TrainingProgress, read_progress, restore, save_checkpoint
from adapters.corpus import Tokens
from adapters.distill import Distillation
from adapters.networks import AdapterNetwork, build_network, start_as
from adapters.options import Progress, StageProgress, TrainOptions
from adapters.states import StateFile, states_key
from adapters.storage import adapter_shape
from adapters.whole_model import WholeModel

# Weight of the past in the loss that is shown and recorded: about the last hundred steps.
_LOSS_MEMORY = 0.99
# Steps whose time predicts that of all others; the first ones warm caches and are not timed.
_UNTIMED_STEPS, _TIMED_STEPS = 3, 20
# What is left for calibration, and for a machine that slows down, when minutes are given.
_TRAINING_SHARE = 0.85
_MAX_PASSES = 60


@dataclass(frozen=True, slots=True)
class Fitting:
    """What a training works on. `started_s` is when its minutes began, on the monotonic clock."""

    options: TrainOptions
    model: WholeModel
    windows: list[Tokens]
    states: StateFile
    progress: Progress
    started_s: float

    def run(self) -> tuple[AdapterNetwork, TrainingProgress]:
        """Train to the last step, saving now and then; the network, and how it went."""
        distillation, at = self._resume() or self._begin()
        began_s = time.monotonic() - at.training_s
        saved_s = time.monotonic()
        for loss in distillation.run(at.recipe):
            memory = _LOSS_MEMORY if at.step else 0.0
            at = msgspec.structs.replace(
                at,
                step=distillation.step,
                training_s=time.monotonic() - began_s,
                recent_loss=memory * at.recent_loss + (1 - memory) * loss,
            )
            self.progress(StageProgress("training", at.step, at.recipe.steps, at.recent_loss))
            if time.monotonic() - saved_s > self.options.checkpoint_every_s:
                save_checkpoint(self.options.work, distillation, at)
                saved_s = time.monotonic()
        save_checkpoint(self.options.work, distillation, at)
        return distillation.network.eval(), at

    def _begin(self) -> tuple[Distillation, TrainingProgress]:
        recipe = self.options.recipe
        if self.options.minutes is not None:
            recipe = replace(recipe, steps=self._steps_in(self.options.minutes * 60))
        return self._new(), TrainingProgress(
            kind=self.options.kind,
            closing_norm=self.options.has_closing_norm,
            states_key=states_key(self.model.manifest, self.windows),
            recipe=recipe,
            step=0,
            training_s=0.0,
            recent_loss=0.0,
        )

    def _resume(self) -> tuple[Distillation, TrainingProgress] | None:
        """The checkpoint in the work folder, if these very options wrote it."""
        options = self.options
        at = read_progress(options.work)
        if at is None or at.states_key != states_key(self.model.manifest, self.windows):
            return None
        # With minutes the number of steps was found by the run that is being resumed.
        steps = options.recipe.steps if options.minutes is None else at.recipe.steps
        same = at.recipe == replace(options.recipe, steps=steps)
        if not same or (at.kind, at.closing_norm) != (options.kind, options.has_closing_norm):
            return None
        distillation = self._new()
        return (distillation, at) if restore(options.work, distillation, at) else None

    def _new(self) -> Distillation:
        options, shape = self.options, adapter_shape(self.model.manifest.shape)
        network = build_network(options.kind, shape, options.has_closing_norm, options.recipe.seed)
        start_as(network, self.model.middle_layers[0])
        network = network.to(options.device)
        return Distillation(network, self.model, self.states, len(self.windows))

    def _steps_in(self, budget_s: float) -> int:
        """How many steps fit, by the time of a few on a network that is thrown away."""
        options = self.options
        num_trial_steps = _UNTIMED_STEPS + _TIMED_STEPS
        trial = self._new().run(replace(options.recipe, steps=num_trial_steps))
        began_s = time.monotonic()
        for step, _ in enumerate(trial):
            if step == _UNTIMED_STEPS - 1:
                began_s = time.monotonic()
        step_s = (time.monotonic() - began_s) / _TIMED_STEPS
        left_s = budget_s * _TRAINING_SHARE - (time.monotonic() - self.started_s)
        per_pass = max(1, len(self.windows) // options.recipe.batch_windows)
        return max(1, min(int(left_s / step_s), _MAX_PASSES * per_pass))
