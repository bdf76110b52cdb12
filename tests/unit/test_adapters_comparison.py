"""An adapter is held against what it would replace, on the same held-out texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.data.corpus import CorpusError, Windows
from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.draft_cost import DraftCost
from adapters.importing.conversion import ImportLimits, import_head
from adapters.install import install_adapter
from adapters.measuring.comparison import Comparison, Standing, lookup_standing, lookup_trial
from adapters.networks import AdapterNetwork
from adapters.options import Recipe, StageProgress, TrainOptions, TrialOptions
from adapters.storage import load_adapter, load_card
from adapters.training import train as training
from adapters.training.checkpoint import TrainingProgress
from adapters.training.train import train
from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed
from submodels.random_models import RandomModel
from tests.support.adapter_models import looked_up, make_bundles, perfect_adapter, write_stories
from tests.support.published_heads import repeating_head
from tests.support.stored_adapters import random_network, store_random_adapter

ONE_MIDDLE_LAYER = RandomModel(
    num_layers=2, hidden_size=32, intermediate_size=48, max_context_tokens=96
)
"""Its middle layer itself is an adapter that is never wrong."""

REPEATING = RandomModel(
    hidden_size=32, intermediate_size=48, max_context_tokens=96, num_layers=8, tied=True, seed=3
)
"""Often says the same token again."""

speeds = st.floats(0.1, 5.0)


def ignore(progress: StageProgress) -> None:
    """No bar."""


def useless(model: WholeModel) -> AdapterNetwork:
    return random_network(model.manifest, "layer", closing_norm=False).eval()


@dataclass
class Planted:
    """Stands for a training that ends with a given network."""

    network: AdapterNetwork

    def __call__(self, *arguments: object) -> "Planted":
        return self

    def run(self) -> tuple[AdapterNetwork, TrainingProgress]:
        return self.network, TrainingProgress(
            kind="layer",
            closing_norm=False,
            states_key="",
            recipe=Recipe(steps=7),
            step=7,
            training_s=1.0,
            recent_loss=0.5,
        )


@pytest.fixture
def model(tmp_path: Path) -> WholeModel:
    bundles = make_bundles(tmp_path, model=ONE_MIDDLE_LAYER)
    return load_whole_model(*bundles, Placed())


@pytest.fixture
def options(tmp_path: Path, model: WholeModel) -> TrainOptions:
    return options_for(model, tmp_path)


def options_for(model: WholeModel, tmp_path: Path) -> TrainOptions:
    text = write_stories(tmp_path / "text.txt", 6)
    return TrainOptions(
        device_bundle=model.device_bundle.path,
        cloud_bundle=model.device_bundle.path.parent / "cloud",
        text=(text,),
        held_out=(text,),
        work=tmp_path / "work",
        lookup=looked_up,
        # As the networks that are planted.
        kind="layer",
        number_format="float32",
        windows=Windows(32, 4),
        calibration=TrialOptions(3, prompt_tokens=(8,), continuation_tokens=30, max_draft_tokens=3),
    )


def planted(
    options: TrainOptions, network: AdapterNetwork, monkeypatch: pytest.MonkeyPatch
) -> Comparison:
    monkeypatch.setattr(training, "Fitting", Planted(network))
    return train(options, ignore).comparison


def test_a_worse_adapter_than_the_one_that_is_there_is_found_out_and_changes_nothing(
    options: TrainOptions, model: WholeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(options, perfect_adapter(model), monkeypatch)
    install_adapter(options.device_bundle, options.out_folder)
    before = {path: path.read_bytes() for path in options.device_bundle.iterdir()}
    comparison = planted(options, useless(model), monkeypatch)
    assert comparison.before is not None
    assert comparison.before.tokens_per_round == pytest.approx(4.0)
    assert comparison.now.tokens_per_round < 2
    assert comparison.faster == "the adapter that is there"
    assert before == {path: path.read_bytes() for path in options.device_bundle.iterdir()}


def test_a_better_adapter_than_the_one_that_is_there_is_the_fastest(
    options: TrainOptions, model: WholeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_random_adapter(options.work / "random", model.manifest, "layer")
    install_adapter(options.device_bundle, options.work / "random")
    comparison = planted(options, perfect_adapter(model), monkeypatch)
    assert comparison.before is not None
    assert comparison.before.speed < 1.5 < comparison.now.speed
    assert comparison.now.tokens_per_round == pytest.approx(4.0)
    assert comparison.faster is None


def test_a_better_head_that_was_imported_is_not_replaced_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says the last token again, and so does this model."""
    bundle, cloud = make_bundles(tmp_path, model=REPEATING)
    model = load_whole_model(bundle, cloud, Placed())
    head = repeating_head(bundle, "eagle").write(tmp_path / "published")
    import_head(str(head), bundle, tmp_path / "imported", ImportLimits(0.0, 3))
    install_adapter(bundle, tmp_path / "imported")
    comparison = planted(options_for(model, tmp_path), useless(model), monkeypatch)
    assert comparison.before is not None
    assert comparison.before.speed > 1.1 * max(1.0, comparison.now.speed)
    assert comparison.faster == "the adapter that is there"


def test_each_adapter_is_judged_by_what_its_own_steps_take(
    options: TrainOptions, model: WholeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(options, perfect_adapter(model), monkeypatch)
    install_adapter(options.device_bundle, options.out_folder)

    def cost_of(adapter: Path) -> DraftCost:
        is_there = adapter == options.device_bundle
        assert load_adapter(adapter, model.manifest).card.kind == "layer"
        return DraftCost.measured(0.001 if is_there else 0.05, 0.1)

    comparison = planted(replace(options, cost_of=cost_of), perfect_adapter(model), monkeypatch)
    assert comparison.before is not None
    assert comparison.before.tokens_per_round == comparison.now.tokens_per_round
    assert comparison.before.speed > 1.5 * comparison.now.speed
    assert comparison.faster == "the adapter that is there"
    cost = load_card(options.out_folder).figures.cost
    assert (cost.step, cost.step_ms, cost.round_ms) == (0.5, 50.0, 100.0)


def test_an_adapter_that_is_no_help_is_not_preferred_to_none(
    options: TrainOptions, model: WholeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = planted(options, useless(model), monkeypatch)
    assert comparison.before is None
    assert comparison.faster == "no drafting"


def test_the_card_keeps_both_figures_and_how_the_training_ended(
    options: TrainOptions, model: WholeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Fitting", Planted(perfect_adapter(model)))
    trained = train(options, ignore)
    figures, comparison = trained.card.training, trained.comparison
    assert (figures.steps, figures.ended, figures.num_prompts) == (7, "steps", 3)
    assert figures.stopped_tokens_per_round == comparison.now.tokens_per_round
    assert figures.speed == comparison.now.speed
    assert figures.ngram_tokens_per_round == comparison.ngram.tokens_per_round
    assert figures.ngram_speed == comparison.ngram.speed


def test_an_adapter_of_another_split_counts_for_nothing(
    options: TrainOptions, model: WholeModel
) -> None:
    other = msgspec.structs.replace(model.manifest, fingerprint="0" * 64)
    store_random_adapter(options.work / "random", model.manifest, "layer")
    install_adapter(options.device_bundle, options.work / "random")
    bundle = load_bundle(options.device_bundle, "device")
    assert training.stored_before(bundle) is not None
    store_random_adapter(options.device_bundle, other, "layer")
    assert training.stored_before(bundle) is None


def test_texts_that_end_at_once_are_named_before_anything_is_written(
    options: TrainOptions, model: WholeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Fitting", Planted(useless(model)))
    short = replace(options.calibration, continuation_tokens=4)
    with pytest.raises(CorpusError, match="held-out text does not serve"):
        train(replace(options, calibration=short), ignore)
    assert not options.out_folder.exists()


@given(now=speeds, ngram=speeds, before=st.none() | speeds)
def test_an_adapter_has_its_place_beside_guesses_when_it_beats_no_drafting_and_the_old_one(
    now: float, ngram: float, before: float | None
) -> None:
    old = None if before is None else Standing(2.0, before)
    comparison = Comparison(4, Standing(2.0, ngram), Standing(2.0, now), old)
    is_best = now > 1 and (before is None or now >= before)
    assert (comparison.faster is None) == is_best
    if comparison.faster is not None:
        named = {"no drafting": 1.0, "the adapter that is there": before}
        assert named[comparison.faster] == max(x for x in named.values() if x is not None)


def test_lookup_is_walked_as_the_device_drafts() -> None:
    text = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    trial = lookup_trial(text, 6, 3, looked_up)
    assert trial.acceptance.shape == (8, 3)
    # From the end on the text is not known, so nothing can be right there.
    np.testing.assert_array_equal(trial.acceptance[:6], 1.0)
    standing = lookup_standing([trial], DraftCost(step=0.5, row=0.1))
    assert standing.tokens_per_round == pytest.approx(4.0)
    assert standing.speed == pytest.approx(4.0 / 1.3)


def test_lookup_that_finds_nothing_drafts_nothing() -> None:
    def nothing(text: Sequence[int], num_tokens: int) -> Sequence[int]:
        return ()

    standing = lookup_standing([lookup_trial(range(20), 4, 4, nothing)], DraftCost())
    assert standing == Standing(1.0, 1.0)
