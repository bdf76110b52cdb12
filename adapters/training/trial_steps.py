"""Whether the minutes of a training are worth beginning, by a few steps that are thrown away."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from adapters.data.draft_head import DraftHead
from adapters.data.features import layout_of
from adapters.data.sample import Sample, batches_of
from adapters.data.whole_model import WholeModel
from adapters.options import StageProgress, TrainOptions
from adapters.training.fitting import new_distillation
from adapters.training.order import FeatureSource, TrainingOrder
from process.errors import UserError

MIN_STEPS = 100
"""An adapter that has taken fewer has hardly left its warm-up; a good one takes thousands."""

_USUAL_STEPS = 2000
_MIN_TRIAL_STEPS, _MAX_TRIAL_STEPS = 4, 12
# A machine that is busy at first gets this share of the minutes to show its pace.
_TRIAL_SHARE = 0.2
# No machine is so busy that it will be faster by this factor in a moment.
_HOPELESS = 10


class TooFewStepsError(UserError):
    """The minutes are too short for a training; the message says how many would do."""


def check_minutes(
    minutes: float,
    options: TrainOptions,
    model: WholeModel,
    head: DraftHead,
    samples: Sequence[Sample],
    clock: Callable[[], float],
) -> None:
    """Return if a training of so many minutes takes enough steps to be of use.

    The fastest of a few steps counts, on the features of their own texts only, so that nothing
    long has begun yet.

    Raises:
        TooFewStepsError: it does not, by far or by a little.
    """
    step_s = _step_s(60 * minutes, options, model, head, samples, clock)
    if MIN_STEPS * step_s <= 60 * minutes:
        return
    needed, usual = (math.ceil(num * step_s / 60) for num in (MIN_STEPS, _USUAL_STEPS))
    raise TooFewStepsError(
        f"a training step takes {step_s:.3g} s here, so in {minutes:g} min there are "
        f"{int(60 * minutes / step_s)} steps; a training needs {MIN_STEPS} at the very least "
        f"({needed} min), and about {_USUAL_STEPS} to be good ({usual} min)"
    )


def _step_s(
    budget_s: float,
    options: TrainOptions,
    model: WholeModel,
    head: DraftHead,
    samples: Sequence[Sample],
    clock: Callable[[], float],
) -> float:
    """Seconds of the fastest trial step; no more of them once one is fast enough."""
    # As long as texts are in the middle; the first batch would be the shortest ones.
    batches = batches_of(samples, options.recipe.batch_windows)
    sample = [samples[index] for index in batches[len(batches) // 2]]
    recipe = replace(options.recipe, steps=_MAX_TRIAL_STEPS)
    with TemporaryDirectory(prefix="hat-adapter-") as folder:
        layout = layout_of(model.manifest, options.wide_states, "float32")
        source = FeatureSource(lambda: model, model.manifest, layout, Path(folder), _silent)
        order = TrainingOrder(source, sample, options.max_state_bytes, recipe.batch_windows)
        order.at(0, recipe)
        began_s = last_s = clock()
        fastest_s = math.inf
        trial = new_distillation(options, model, head, order)
        for _ in trial.run(recipe):
            now = clock()
            fastest_s, last_s = min(fastest_s, now - last_s), now
            needed_s = MIN_STEPS * fastest_s
            is_hopeless = trial.step > 1 and needed_s > _HOPELESS * budget_s
            is_long = trial.step >= _MIN_TRIAL_STEPS and now - began_s > _TRIAL_SHARE * budget_s
            if is_hopeless or is_long or needed_s <= budget_s:
                break
    return fastest_s


def _silent(progress: StageProgress) -> None:
    """Trial steps are no part of the work that is shown."""
