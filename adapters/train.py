"""`train`: text files and two bundles in, an adapter in the device bundle out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.checkpoint import TrainingProgress
from adapters.corpus import Corpus, Share, Tokens, collect_windows
from adapters.evaluate import greedy_trial, held_out_prompts
from adapters.fitting import Fitting
from adapters.networks import AdapterNetwork, network_tensors
from adapters.options import Progress, StageProgress, TrainOptions
from adapters.rounds import Trial, walk_rounds
from adapters.states import cached_states, max_tokens_in
from adapters.storage import (
    FORMAT_VERSION,
    AdapterCard,
    TrainingFigures,
    adapter_shape,
    write_card,
    write_weights,
)
from adapters.threshold import ThresholdFigures, best_threshold, sweep_thresholds
from adapters.whole_model import WholeModel, load_whole_model
from submodels.bundle import Bundle
from submodels.layers import Placed
from submodels.manifest import Manifest


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """The adapter that now lies in `path`."""

    path: Path
    card: AdapterCard


def train(options: TrainOptions, progress: Progress) -> TrainedAdapter:
    """Train an adapter, choose its stop threshold, and write it beside the device's parts.

    Interrupted, it goes on from its last checkpoint when called again with the same options, and
    ends with the same weights.

    Raises:
        BundleError: the bundles cannot be used together.
        CorpusError: too little text.
    """
    started_s = time.monotonic()
    model = load_whole_model(
        options.device_bundle, options.cloud_bundle, Placed(device=options.device)
    )
    # Before the long work, so that a useless held-out text is told at once.
    trained, held_out = _corpora(options, model.device_bundle)
    prompts = held_out_prompts(held_out, options.calibration)
    windows = _windows(options, trained)
    states = cached_states(
        model, windows, options.work, lambda done, of: progress(StageProgress("states", done, of))
    )
    network, at = Fitting(options, model, windows, states, progress, started_s).run()
    trials = _calibration_trials(options, model, network, prompts, progress)
    chosen = best_threshold(sweep_thresholds(trials, options.cost))
    figures = _figures(options, at, windows, trials, chosen)
    folder = options.out or model.device_bundle.path
    card = _write(folder, options, model.manifest, network, chosen.threshold, figures)
    return TrainedAdapter(folder, card)


def _corpora(options: TrainOptions, bundle: Bundle) -> tuple[Corpus, Corpus]:
    """What is trained on, and what is not."""
    if options.held_out:
        return Corpus(bundle, options.text), Corpus(bundle, options.held_out)
    return (
        Corpus(bundle, options.text, Share.TRAINED),
        Corpus(bundle, options.text, Share.HELD_OUT),
    )


def _windows(options: TrainOptions, corpus: Corpus) -> list[Tokens]:
    """Windows within the model's context, and few enough for the file of states."""
    shape = corpus.bundle.manifest.shape
    longest = min(options.windows.max_tokens, shape.max_context_tokens)
    max_tokens = max_tokens_in(options.max_state_bytes, shape.hidden_size)
    return collect_windows(corpus, replace(options.windows, max_tokens=longest), max_tokens)


def _calibration_trials(
    options: TrainOptions,
    model: WholeModel,
    network: AdapterNetwork,
    prompts: Sequence[Sequence[int]],
    progress: Progress,
) -> list[Trial]:
    trials = []
    for index, prompt in enumerate(prompts):
        trials.append(greedy_trial(model, network, prompt, options.calibration))
        progress(StageProgress("calibration", index + 1, len(prompts)))
    return trials


def _figures(
    options: TrainOptions,
    at: TrainingProgress,
    windows: Sequence[Tokens],
    trials: Sequence[Trial],
    chosen: ThresholdFigures,
) -> TrainingFigures:
    return TrainingFigures(
        steps=at.step,
        corpus_tokens=sum(map(len, windows)),
        passes=at.step * at.recipe.batch_windows / len(windows),
        loss=at.recent_loss,
        training_s=at.training_s,
        seed=at.recipe.seed,
        tokens_per_round=walk_rounds(trials, 0.0).tokens_per_round,
        stopped_tokens_per_round=chosen.figures.tokens_per_round,
        cost=options.cost,
    )


def _write(
    folder: Path,
    options: TrainOptions,
    manifest: Manifest,
    network: AdapterNetwork,
    stop_threshold: float,
    figures: TrainingFigures,
) -> AdapterCard:
    """Weights first: until the card follows, the folder's adapter does not pass its checks."""
    folder.mkdir(parents=True, exist_ok=True)
    card = AdapterCard(
        format_version=FORMAT_VERSION,
        kind=options.kind,
        closing_norm=options.has_closing_norm,
        shape=adapter_shape(manifest.shape),
        fingerprint=manifest.fingerprint,
        num_input_layers=manifest.num_input_layers,
        num_output_layers=manifest.num_output_layers,
        stop_threshold=stop_threshold,
        max_draft_tokens=options.calibration.max_draft_tokens,
        training=figures,
        weights=write_weights(folder, network_tensors(network)),
    )
    write_card(folder, card)
    return card
