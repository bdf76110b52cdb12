from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.data.corpus import Windows
from adapters.data.states import STATES_FILE, Batch, cached_states
from adapters.data.whole_model import WholeModel
from adapters.networks import load_network
from adapters.options import Recipe, StageProgress, TrainOptions, TrialOptions
from adapters.storage import WEIGHTS_FILE, Kind, load_adapter
from adapters.training.distillation import distillation_loss
from adapters.training.train import TrainedAdapter, train
from submodels.bundle.bundle import load_bundle
from tests.support.adapter_models import (
    PerfectAdapter,
    looked_up,
    make_bundles,
    make_whole_model,
    write_stories,
)

pytestmark = pytest.mark.slow

RECIPE = Recipe(steps=8, batch_windows=2, warmup_steps=2)


class StopError(Exception):
    """Stands for a power cut."""


def ignore(progress: StageProgress) -> None:
    """No bar."""


def options(tmp_path: Path, name: str = "work") -> TrainOptions:
    device, cloud = make_bundles(tmp_path, num_output=1)
    text = write_stories(tmp_path / "text.txt", 6)
    return TrainOptions(
        device_bundle=device,
        cloud_bundle=cloud,
        text=(text,),
        held_out=(text,),
        work=tmp_path / name,
        lookup=looked_up,
        out=tmp_path / f"{name}-out",
        recipe=RECIPE,
        windows=Windows(32, 4),
        calibration=TrialOptions(2, prompt_tokens=(8,), continuation_tokens=8, max_draft_tokens=3),
    )


def weights(adapter: TrainedAdapter) -> bytes:
    return (adapter.path / WEIGHTS_FILE).read_bytes()


def test_every_pass_takes_every_window_once_and_in_an_order_of_its_own() -> None:
    recipe = Recipe(steps=8, batch_windows=3, seed=5)
    passes = [[recipe.windows_of(step + 4 * p, 12) for step in range(4)] for p in range(2)]
    flat = [[index for batch in batches for index in batch] for batches in passes]
    assert sorted(flat[0]) == sorted(flat[1]) == list(range(12))
    assert flat[0] != flat[1]
    assert recipe.windows_of(6, 12) == passes[1][2]


def test_fewer_windows_than_a_batch_still_train() -> None:
    assert sorted(Recipe(steps=1, batch_windows=8).windows_of(3, 5)) == list(range(5))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_hundredth() -> None:
    recipe = Recipe(steps=100, warmup_steps=10, peak_lr=1.0)
    rates = [recipe.learning_rate(step) for step in range(101)]
    assert rates[9] == pytest.approx(1.0)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.01)


@pytest.mark.parametrize("num_output", [0, 1])
def test_an_adapter_that_is_never_wrong_has_only_the_targets_own_entropy_as_loss(
    tmp_path: Path, num_output: int
) -> None:
    model = make_whole_model(tmp_path, num_output=num_output)
    batch, targets = _batch_of_two(model)
    loss = distillation_loss(PerfectAdapter(model).forward, model, batch, token_weight=0.1)
    probabilities = torch.cat(targets).softmax(-1)
    entropy = -(probabilities * probabilities.log()).sum(-1).mean()
    assert float(loss) == pytest.approx(0.1 * float(entropy), rel=1e-4)


def _batch_of_two(model: WholeModel) -> tuple[Batch, list[torch.Tensor]]:
    """Two windows of different length, and the whole model's logits for them."""
    shallow, top = torch.zeros(2, 2, 9, model.embedding.shape[1])
    known = torch.zeros(2, 9, dtype=torch.bool)
    logits = []
    for slot, token_ids in enumerate(([1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 8, 7, 6])):
        states = model.sequence().extend(token_ids, 0)
        shallow[slot, : len(token_ids)], top[slot, : len(token_ids)] = states.shallow, states.top
        known[slot, : len(token_ids)] = True
        logits.append(model.head(states.top))
    return Batch(shallow, top, known), logits


def test_states_are_computed_once_and_again_only_for_another_corpus(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path)
    windows = [np.arange(1, 6, dtype=np.int32), np.arange(3, 7, dtype=np.int32)]
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    first = cached_states(model, windows, tmp_path / "work", progress).batch([1])
    again = cached_states(model, windows, tmp_path / "work", progress).batch([1])
    assert calls == [(1, 2), (2, 2)]
    torch.testing.assert_close(first.shallow, again.shallow, rtol=0, atol=0)
    expected = model.sequence().extend([3, 4, 5, 6], 0)
    torch.testing.assert_close(first.shallow[0], expected.shallow)
    torch.testing.assert_close(first.top[0], expected.top)
    cached_states(model, windows[:1], tmp_path / "work", progress)
    assert calls[2:] == [(1, 1)]
    assert (tmp_path / "work" / STATES_FILE).stat().st_size == 5 * 2 * 32 * 4


@pytest.mark.parametrize("kind", ["attention", "layer"])
def test_training_twice_gives_the_same_adapter_and_another_seed_another(
    tmp_path: Path, kind: Kind
) -> None:
    one = replace(options(tmp_path, "one"), kind=kind)
    two = replace(options(tmp_path, "two"), kind=kind)
    other = replace(options(tmp_path, "other"), kind=kind, recipe=replace(RECIPE, seed=1))
    assert weights(train(one, ignore)) == weights(train(two, ignore))
    assert weights(train(one, ignore)) != weights(train(other, ignore))


def test_an_interrupted_training_goes_on_exactly(tmp_path: Path) -> None:
    whole = weights(train(options(tmp_path, "whole"), ignore))
    cut = replace(options(tmp_path, "cut"), checkpoint_every_s=0.0)

    def power_cut(progress: StageProgress) -> None:
        if progress.stage == "training" and progress.done == 5:
            raise StopError

    with pytest.raises(StopError):
        train(cut, power_cut)
    seen: list[int] = []

    def watch(progress: StageProgress) -> None:
        if progress.stage == "training":
            seen.append(progress.done)

    assert weights(train(cut, watch)) == whole
    assert seen == [5, 6, 7, 8]


def test_a_checkpoint_of_other_options_is_not_taken_up(tmp_path: Path) -> None:
    train(options(tmp_path), ignore)
    seen: list[int] = []

    def watch(progress: StageProgress) -> None:
        if progress.stage == "training":
            seen.append(progress.done)

    train(replace(options(tmp_path), recipe=replace(RECIPE, peak_lr=1e-3)), watch)
    assert seen[0] == 1


def test_a_trained_adapter_loads_for_its_bundle_and_carries_its_figures(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    trained = train(chosen, ignore)
    manifest = load_bundle(chosen.device_bundle, "device").manifest
    stored = load_adapter(trained.path, manifest)
    assert load_network(stored).training is False
    assert stored.card == trained.card
    assert trained.card.training.steps == RECIPE.steps
    assert trained.card.training.loss > 0
    assert 1 <= trained.card.training.stopped_tokens_per_round <= 4


def test_without_held_out_text_some_stories_are_kept_for_calibration(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    text = write_stories(tmp_path / "longer.txt", 40)
    alone = train(replace(chosen, text=(text,), held_out=()), ignore).card.training
    beside = train(replace(chosen, text=(text,), held_out=(text,)), ignore).card.training
    assert alone.corpus_tokens < beside.corpus_tokens


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Recipe(steps=0),
        lambda: Recipe(steps=1, batch_windows=0),
        lambda: Windows(1, 1),
        lambda: Windows(8, 9),
        lambda: TrialOptions(num_prompts=0),
        lambda: TrialOptions(prompt_tokens=()),
        lambda: TrialOptions(continuation_tokens=6),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        wrong()
