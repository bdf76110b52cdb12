"""Minutes are those of the training steps, by a clock that the test moves."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from adapters.data.corpus import Windows
from adapters.data.features import FEATURES_FILE
from adapters.options import Recipe, StageProgress, TrainOptions, TrialOptions
from adapters.training import fitting
from adapters.training.train import train
from adapters.training.trial_steps import MIN_STEPS, TooFewStepsError
from tests.support.adapter_models import looked_up, make_bundles, write_stories

pytestmark = pytest.mark.slow

RECIPE = Recipe(steps=1, batch_windows=2, warmup_steps=5)


class StopError(Exception):
    """Stands for Ctrl-C."""


@dataclass
class Machine:
    """A clock, and what each report of progress takes on it."""

    seconds: dict[str, list[float]]
    now: float = 0.0
    stop_at_step: int = -1
    seen: list[StageProgress] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def progress(self, progress: StageProgress) -> None:
        self.seen.append(progress)
        times = self.seconds.get(progress.stage, [0.0])
        # The last of them is that of all further ones.
        self.now += times.pop(0) if len(times) > 1 else times[0]
        if progress.stage == "training" and progress.done == self.stop_at_step:
            raise StopError

    def num(self, stage: str) -> int:
        return sum(progress.stage == stage for progress in self.seen)


def options(tmp_path: Path, minutes: float = 1.0) -> TrainOptions:
    device, cloud = make_bundles(tmp_path)
    text = write_stories(tmp_path / "text.txt", 8)
    return TrainOptions(
        device_bundle=device,
        cloud_bundle=cloud,
        text=(text,),
        held_out=(text,),
        work=tmp_path / "work",
        lookup=looked_up,
        number_format="float32",
        recipe=RECIPE,
        minutes=minutes,
        windows=Windows(16, 4),
        calibration=TrialOptions(6, prompt_tokens=(8,), continuation_tokens=8, max_draft_tokens=3),
    )


@pytest.fixture(autouse=True)
def _much_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is the time that ends a training."""
    monkeypatch.setattr(fitting, "_MAX_PASSES", 100_000)


def test_a_machine_that_is_slow_at_first_gets_its_minutes(tmp_path: Path) -> None:
    machine = Machine({"training": [5.0] * 4 + [0.5]})
    figures = train(options(tmp_path), machine.progress, machine.clock).card.training
    assert (figures.steps, figures.ended) == (4 + 80, "minutes")
    assert figures.training_s == pytest.approx(60.0)


def test_a_machine_that_slows_down_ends_in_time_all_the_same(tmp_path: Path) -> None:
    machine = Machine({"training": [0.25] * 120 + [5.0]})
    figures = train(options(tmp_path), machine.progress, machine.clock).card.training
    assert figures.steps == 120 + 6
    assert figures.training_s == pytest.approx(60.0)


def test_what_comes_before_and_after_the_steps_is_not_counted(tmp_path: Path) -> None:
    machine = Machine({"states": [3600.0], "training": [0.5], "calibration": [3600.0]})
    figures = train(options(tmp_path), machine.progress, machine.clock).card.training
    assert machine.num("states") > 1
    assert figures.steps == 120


def test_an_interrupted_training_goes_on_with_what_is_left_of_its_minutes(tmp_path: Path) -> None:
    chosen = replace(options(tmp_path), checkpoint_every_s=0.0)
    machine = Machine({"training": [0.5]}, stop_at_step=90)
    with pytest.raises(StopError):
        train(chosen, machine.progress, machine.clock)
    assert not chosen.out_folder.exists()
    later = Machine({"training": [0.5]}, now=1e6)
    figures = train(chosen, later.progress, later.clock).card.training
    # The last step before the interruption was not saved any more.
    assert (figures.steps, later.num("training")) == (120 + 1, 32)
    assert figures.training_s == pytest.approx(60.0)


def test_other_minutes_begin_anew(tmp_path: Path) -> None:
    for minutes, num_steps in ((1.0, 120), (2.0, 240)):
        machine = Machine({"training": [0.5]})
        train(options(tmp_path, minutes), machine.progress, machine.clock)
        assert machine.num("training") == num_steps


def test_a_short_text_is_not_gone_through_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_MAX_PASSES", 3)
    machine = Machine({"training": [0.01]})
    figures = train(options(tmp_path), machine.progress, machine.clock).card.training
    assert (figures.passes, figures.ended) == (pytest.approx(3.0), "passes")
    assert figures.training_s < 60


def test_the_steps_to_come_are_foreseen_from_the_pace_so_far(tmp_path: Path) -> None:
    machine = Machine({"training": [1.0] * 10 + [0.5]})
    train(options(tmp_path), machine.progress, machine.clock)
    totals = [one.total for one in machine.seen if one.stage == "training"]
    # A step is reported before this clock has counted it.
    assert totals[5] == round(60 * 6 / 5)
    assert totals[-2:] == [111, 111]
    assert all(one.done <= one.total for one in machine.seen)


def test_the_rate_falls_with_the_time_that_is_used() -> None:
    recipe = Recipe(steps=1_000_000, warmup_steps=10, peak_lr=1.0)
    rates = [recipe.learning_rate(500, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1.0, abs=1e-4)
    assert rates[2] == pytest.approx(0.505, abs=1e-3)
    assert rates[-1] == pytest.approx(0.01)


@pytest.mark.parametrize(("step_s", "is_enough"), [(0.59, True), (0.61, False), (12.0, False)])
def test_minutes_too_short_are_refused_before_anything_long_begins(
    tmp_path: Path, step_s: float, is_enough: bool
) -> None:
    chosen, ticks = options(tmp_path), iter(range(100_000))
    machine = Machine({"training": [1.0]})

    def clock() -> float:
        """Only the trial steps look at it more than once without a report between."""
        return machine.now + step_s * next(ticks)

    if is_enough:
        assert train(chosen, machine.progress, clock).card.training.steps > 1
        return
    with pytest.raises(TooFewStepsError) as refused:
        train(chosen, machine.progress, clock)
    words = str(refused.value)
    assert f"takes {step_s:.3g} s here, so in 1 min there are {int(60 / step_s)} steps" in words
    assert f"needs {MIN_STEPS} at the very least" in words
    assert machine.seen == []
    assert not (chosen.work / FEATURES_FILE).exists()
    assert not chosen.out_folder.exists()


def test_held_out_prompts_are_tried_for_half_of_the_minutes_and_a_few_in_any_case(
    tmp_path: Path,
) -> None:
    for seconds, num_prompts in ((1.0, 6), (7.0, 5), (1000.0, 4)):
        machine = Machine({"training": [0.5], "calibration": [seconds]})
        chosen = options(tmp_path)
        figures = train(chosen, machine.progress, machine.clock).card.training
        assert figures.num_prompts == num_prompts
