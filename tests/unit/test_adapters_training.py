from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.data.corpus import Windows
from adapters.data.draft_head import DraftHead, draft_head
from adapters.data.features import (
    NUM_LIKELIEST,
    FeatureFile,
    cached_features,
    layout_of,
    number_format_in,
)
from adapters.data.sample import Sample, choose_vocabulary, covered_share
from adapters.data.whole_model import WholeModel
from adapters.networks import BlockAdapter, FedAdapter, load_network
from adapters.options import Recipe, StageProgress, TrainOptions, TrialOptions
from adapters.storage import WEIGHTS_FILE, AdapterError, Kind, load_adapter
from adapters.training.curve import CURVE_FILE
from adapters.training.learning.distillation import chain_loss
from adapters.training.learning.losses import distances
from adapters.training.learning.self_feeding import chain_estimates
from adapters.training.train import TrainedAdapter, train
from submodels.bundle.bundle import load_bundle
from submodels.bundle.layers import LayerCache
from tests.support.adapter_models import (
    looked_up,
    make_bundles,
    make_whole_model,
    one_middle_layer,
    perfect_adapter,
    write_stories,
)
from tests.support.stored_adapters import random_network

pytestmark = pytest.mark.slow

RECIPE = Recipe(steps=8, batch_windows=2, warmup_steps=2, evaluate_every=3)


class StopError(Exception):
    """Stands for a power cut."""


def ignore(progress: StageProgress) -> None:
    """No bar."""


def options(tmp_path: Path, name: str = "work", num_output: int = 1) -> TrainOptions:
    device, cloud = make_bundles(tmp_path, num_output=num_output)
    text = write_stories(tmp_path / "text.txt", 6)
    return TrainOptions(
        device_bundle=device,
        cloud_bundle=cloud,
        text=(text,),
        held_out=(text,),
        work=tmp_path / name,
        lookup=looked_up,
        number_format="float32",
        out=tmp_path / f"{name}-out",
        recipe=RECIPE,
        windows=Windows(32, 4),
        calibration=TrialOptions(2, prompt_tokens=(8,), continuation_tokens=8, max_draft_tokens=3),
    )


def of_kind(tmp_path: Path, name: str, kind: Kind) -> TrainOptions:
    """With an output layer on the device, where the kind can be used with one."""
    return replace(options(tmp_path, name, num_output=0 if kind == "block" else 1), kind=kind)


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
    assert sorted(Recipe(steps=1).batch_order(3, 5)) == list(range(5))


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
    model = one_middle_layer(tmp_path, num_output=num_output)
    samples = [sample([1, 2, 3, 4, 5, 6, 7, 8, 9]), sample([9, 8, 7, 6])]
    batch = features(tmp_path / "work", model, samples).batch([0, 1])
    recipe = Recipe(steps=1, token_weight=0.1, variation_weight=0.9, state_weight=1.0)
    loss = chain_loss(perfect_adapter(model), everything(model), batch, recipe)
    rows = [model.sequence().extend(one.token_ids.tolist(), 0).top[:-1] for one in samples]
    probabilities = model.head(torch.cat(rows)).softmax(-1)
    best = probabilities.topk(NUM_LIKELIEST, dim=-1).values
    rest = 1 - best.sum(-1)
    entropy = -(best * best.log()).sum(-1) - rest * rest.log()
    # Of what is not known one by one nothing counts as accepted.
    expected = 0.1 * entropy.mean() + 0.9 * rest.mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=2e-3)


def sample(token_ids: list[int], *answers: tuple[int, int]) -> Sample:
    return Sample(np.array(token_ids, np.int32), answers or ((0, len(token_ids)),))


def features(folder: Path, model: WholeModel, samples: list[Sample]) -> FeatureFile:
    layout = layout_of(model.manifest, True, "float32")
    return cached_features(
        lambda: model, model.manifest, samples, folder, layout, lambda done, of: None
    )


def everything(model: WholeModel) -> DraftHead:
    return draft_head(model, None)


def test_the_loss_over_a_draft_vocabulary_is_that_of_a_naive_computation(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path)
    vocab_size = model.manifest.shape.vocab_size
    vocabulary = np.arange(3, vocab_size, 2, dtype=np.int32)
    head = draft_head(model, vocabulary)
    generator = torch.Generator().manual_seed(0)
    drafts = torch.randn(7, model.embedding.shape[1], generator=generator)
    truth = torch.randn(7, vocab_size, generator=generator).mul(3).log_softmax(-1)
    best = truth.topk(5, dim=-1)
    came = distances(head.logits(drafts), head.places, best.indices, best.values)
    own = model.head(drafts)[:, vocabulary.tolist()].softmax(-1)
    for row in range(7):
        accepted, entropy, known, mine = 0.0, 0.0, 0.0, 0.0
        for token, log_prob in zip(
            best.indices[row].tolist(), best.values[row].tolist(), strict=True
        ):
            known += np.exp(log_prob)
            if token in vocabulary:
                share = float(own[row, vocabulary.tolist().index(token)])
                mine += share
                accepted += min(share, np.exp(log_prob))
                entropy -= np.exp(log_prob) * np.log(share)
        entropy -= (1 - known) * np.log(max(1 - mine, 1e-6))
        assert float(came.accepted[row]) == pytest.approx(accepted, rel=1e-4, abs=1e-6)
        assert float(came.cross_entropy[row]) == pytest.approx(entropy, rel=1e-4)


def test_self_fed_steps_are_what_the_device_drafts_from_every_start(tmp_path: Path) -> None:
    """Each step of each chain, held against the network run one row at a time with its cache."""
    model = make_whole_model(tmp_path)
    network = random_network(model.manifest, "fed", closing_norm=False)
    assert isinstance(network, FedAdapter)
    text = sample([1, 5, 6, 7, 8, 9, 10, 11, 12, 13], (4, 10))
    batch = features(tmp_path / "work", model, [text]).batch([0])
    estimates = chain_estimates(network, batch, 4)
    shallow, deep = batch.shallow[0], batch.deep[0]
    for start in range(4, 7):
        cache, previous = LayerCache(), None
        for at in range(start + 4):
            row, is_true = shallow[at : at + 1], at <= start
            if is_true:
                previous = deep[at - 1 : at] if at >= 4 else None
            estimate = network.extend(row, at, cache, previous)
            if at >= start:
                step = estimates[at - start][0, at]
                torch.testing.assert_close(step, estimate[0], rtol=1e-4, atol=1e-5)
                previous = estimate


def test_a_prompts_deep_rows_are_not_fed_but_the_last_and_only_answers_are_scored() -> None:
    one = sample(list(range(1, 13)), (3, 6), (9, 12))
    assert np.flatnonzero(one.fed()).tolist() == [3, 4, 5, 9, 10, 11]
    assert np.flatnonzero(one.scored()).tolist() == [3, 4, 9, 10]
    assert np.flatnonzero(one.last_only.scored()).tolist() == [9, 10]
    assert one.cut(10).answers == ((3, 6), (9, 10))
    assert np.flatnonzero(sample([1, 2, 3]).fed()).tolist() == [1, 2]


def test_a_draft_vocabulary_covers_the_answers_and_no_more_than_it_may() -> None:
    tokens = [*range(300), *[7] * 9700]
    one = [sample([5, 1000, *tokens], (2, 2 + len(tokens)))]
    whole = choose_vocabulary(one, one, 5000, 1.0, 4096)
    assert whole is not None
    assert (len(whole), {*range(300)} <= {*whole.tolist()}) == (512, True)
    assert covered_share(one, whole) == 1.0
    few = choose_vocabulary(one, one, 5000, 0.97, 4096)
    assert few is not None
    assert len(few) == 256
    assert 7 in few
    assert few.tolist() == sorted(few.tolist())
    least = choose_vocabulary(one, one, 5000, 1.0, 256)
    assert least is not None
    assert len(least) == 256
    assert choose_vocabulary(one, one, 4096, 0.5, 4096) is None


def test_features_are_computed_once_and_again_only_for_another_corpus(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path)
    samples = [sample([1, 2, 3, 4, 5]), sample([3, 4, 5, 6], (2, 4))]
    loads: list[int] = []

    def load() -> WholeModel:
        loads.append(1)
        return model

    def computed(some: list[Sample]) -> FeatureFile:
        layout = layout_of(model.manifest, True, "float32")
        return cached_features(
            load, model.manifest, some, tmp_path / "work", layout, lambda done, of: None
        )

    first, again = computed(samples).batch([1]), computed(samples).batch([1])
    assert len(loads) == 1
    torch.testing.assert_close(first.shallow, again.shallow, rtol=0, atol=0)
    expected = model.sequence().extend([3, 4, 5, 6], 0)
    torch.testing.assert_close(first.shallow[0], expected.shallow)
    torch.testing.assert_close(first.top[0], expected.top)
    best = model.head(expected.top[2:3])[0].log_softmax(-1).topk(NUM_LIKELIEST)
    assert first.likeliest[0, 2].tolist() == best.indices.tolist()
    torch.testing.assert_close(first.log_probs[0, 2], best.values, rtol=1e-3, atol=1e-3)
    computed(samples[:1])
    assert len(loads) == 2
    assert number_format_in(tmp_path / "work") == "float32"


@pytest.mark.parametrize("kind", ["attention", "layer", "fed", "block"])
def test_a_corpus_larger_than_the_window_is_gone_through_part_by_part(
    tmp_path: Path, kind: Kind
) -> None:
    one = of_kind(tmp_path, "one", kind)
    seen: list[str] = []

    def watch(progress: StageProgress) -> None:
        seen.append(progress.stage)

    small = replace(of_kind(tmp_path, "small", kind), max_state_bytes=30_000)
    trained = train(small, watch)
    assert seen.count("states") > 2 * len({*range(3)})
    assert max(path.stat().st_size for path in small.work.glob("features.bin")) <= 30_000
    assert trained.card.training.steps == train(one, ignore).card.training.steps


@pytest.mark.parametrize("kind", ["attention", "layer", "fed", "block"])
def test_training_twice_gives_the_same_adapter_and_another_seed_another(
    tmp_path: Path, kind: Kind
) -> None:
    one = of_kind(tmp_path, "one", kind)
    two = of_kind(tmp_path, "two", kind)
    other = replace(of_kind(tmp_path, "other", kind), recipe=replace(RECIPE, seed=1))
    assert weights(train(one, ignore)) == weights(train(two, ignore))
    assert weights(train(one, ignore)) != weights(train(other, ignore))


@pytest.mark.parametrize("kind", ["layer", "fed", "block"])
def test_an_interrupted_training_goes_on_exactly(tmp_path: Path, kind: Kind) -> None:
    trained = train(of_kind(tmp_path, "whole", kind), ignore)
    whole, curve = weights(trained), (trained.path / CURVE_FILE).read_text()
    cut = replace(of_kind(tmp_path, "cut", kind), checkpoint_every_s=0.0)

    def power_cut(progress: StageProgress) -> None:
        if progress.stage == "training" and progress.done == 5:
            raise StopError

    with pytest.raises(StopError):
        train(cut, power_cut)
    seen: list[int] = []

    def watch(progress: StageProgress) -> None:
        if progress.stage == "training":
            seen.append(progress.done)

    trained = train(cut, watch)
    assert weights(trained) == whole
    assert (trained.path / CURVE_FILE).read_text() == curve
    assert seen == [5, 6, 7, 8]


def test_blocks_are_not_trained_for_a_device_with_output_layers(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="a device without output layers, got 1"):
        train(replace(options(tmp_path), kind="block"), ignore)


def test_places_of_a_block_are_learned_from_the_tokens_before_them(tmp_path: Path) -> None:
    """A place's loss changes with the text's token before it, and not with those behind it."""
    model = make_whole_model(tmp_path)
    network = random_network(model.manifest, "block", closing_norm=False)
    assert isinstance(network, BlockAdapter)
    samples = [Sample(np.arange(3, 23, dtype=np.int32), ((2, 20),))]
    layout = layout_of(model.manifest, True, "float32")
    features = cached_features(
        lambda: model, model.manifest, samples, tmp_path / "work", layout, lambda done, of: None
    )
    batch = features.batch([0])

    def loss(changed: int) -> float:
        token_ids = batch.token_ids.clone()
        token_ids[0, changed] = 40
        chance = np.random.Generator(np.random.Philox(0))
        recipe = replace(RECIPE, state_weight=0.0)
        other = replace(batch, token_ids=token_ids)
        with torch.no_grad():
            return float(chain_loss(network, everything(model), other, recipe, chance))

    # The last token is drafted, and no place follows it; the first ones are rows of the prompt.
    assert loss(19) == loss(0) == loss(1)
    assert loss(10) != loss(0)


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
