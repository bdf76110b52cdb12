"""`train`: text files and two bundles in, an adapter out, measured beside what is there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.data.corpus import Tokens
from adapters.data.states import cached_states
from adapters.data.whole_model import load_whole_model
from adapters.measuring.calibration import Calibration, calibrate, held_out_texts
from adapters.measuring.comparison import Comparison
from adapters.networks import AdapterNetwork, network_tensors
from adapters.options import Progress, StageProgress, TrainOptions
from adapters.storage import (
    CARD_FILE,
    FORMAT_VERSION,
    AdapterCard,
    AdapterError,
    StoredAdapter,
    TrainingFigures,
    adapter_shape,
    load_adapter,
    write_card,
    write_weights,
)
from adapters.training.checkpoint import TrainingProgress
from adapters.training.fitting import Fitting, resumable, why_ended
from adapters.training.material import training_material
from adapters.training.trial_steps import check_minutes
from submodels.bundle.bundle import Bundle
from submodels.bundle.layer_weights import Placed
from submodels.manifest import Manifest


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """The adapter that now lies in `path`, and how it stands beside what the bundle has."""

    path: Path
    card: AdapterCard
    comparison: Comparison


def train(
    options: TrainOptions, progress: Progress, clock: Callable[[], float] = time.monotonic
) -> TrainedAdapter:
    """Train an adapter, choose its stop threshold, and write it to the folder of the options.

    The bundle's own adapter, if it has one, is measured on the same text and stays as it is.
    Interrupted, a training goes on from its last checkpoint when called again with the same
    options; bounded by steps, it ends with the same weights. `clock` is monotonic, in seconds.

    Raises:
        BundleError: the bundles cannot be used together.
        CorpusError: too little text.
        TooFewStepsError: too few minutes; nothing long has begun then.
    """
    placed = Placed(device=options.device)
    model = load_whole_model(options.device_bundle, options.cloud_bundle, placed)
    # Before the long work, so that a useless held-out text is told at once.
    windows, prompts = training_material(options, model.device_bundle)
    if options.minutes is not None and resumable(options, model, windows) is None:
        check_minutes(options.minutes, options, model, windows, clock)
    states = cached_states(
        model, windows, options.work, lambda done, of: progress(StageProgress("states", done, of))
    )
    network, at = Fitting(options, model, windows, states, progress, clock).run()
    before = stored_before(model.device_bundle)
    texts = held_out_texts(options, model, prompts, progress, clock)
    calibration = calibrate(options, model, network, before, texts)
    figures = _figures(options, at, windows, calibration)
    threshold = calibration.stop_threshold
    card = _write(options, model.manifest, network, threshold, figures)
    return TrainedAdapter(options.out_folder, card, calibration.comparison)


def stored_before(bundle: Bundle) -> StoredAdapter | None:
    """The adapter that the device drafts with until now; None where it has none it could use."""
    if CARD_FILE not in bundle.manifest.files:
        return None
    try:
        return load_adapter(bundle.path, bundle.manifest)
    except AdapterError:
        return None


def _figures(
    options: TrainOptions,
    at: TrainingProgress,
    windows: Sequence[Tokens],
    calibration: Calibration,
) -> TrainingFigures:
    comparison = calibration.comparison
    return TrainingFigures(
        steps=at.step,
        corpus_tokens=sum(map(len, windows)),
        passes=at.step * at.recipe.batch_windows / len(windows),
        loss=at.recent_loss,
        training_s=at.training_s,
        seed=at.recipe.seed,
        tokens_per_round=calibration.full_tokens_per_round,
        stopped_tokens_per_round=comparison.now.tokens_per_round,
        cost=options.cost,
        ended=why_ended(at),
        num_prompts=comparison.num_prompts,
        speed=comparison.now.speed,
        ngram_tokens_per_round=comparison.ngram.tokens_per_round,
        ngram_speed=comparison.ngram.speed,
    )


def _write(
    options: TrainOptions,
    manifest: Manifest,
    network: AdapterNetwork,
    stop_threshold: float,
    figures: TrainingFigures,
) -> AdapterCard:
    """Weights first: until the card follows, the folder's adapter does not pass its checks."""
    folder = options.out_folder
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
