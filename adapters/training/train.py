"""`train`: texts and two bundles in, an adapter out, measured beside what is there."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.data.draft_head import draft_head
from adapters.data.faster_format import faster_dtype
from adapters.data.features import layout_of, number_format_in
from adapters.data.sample import choose_vocabulary, covered_share
from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.draft_cost import DraftCost
from adapters.measuring.comparison import Comparison
from adapters.networks import AdapterNetwork, network_tensors
from adapters.options import Progress, TrainOptions
from adapters.storage import (
    CARD_FILE,
    FORMAT_VERSION,
    AdapterCard,
    AdapterError,
    StoredAdapter,
    TrainingFigures,
    adapter_shape,
    check_model,
    check_split,
    load_adapter,
    write_card,
    write_weights,
)
from adapters.training.calibration import (
    Calibration,
    Candidate,
    Rival,
    calibrate,
    held_out_texts,
)
from adapters.training.checkpoint import TrainingProgress
from adapters.training.curve import CURVE_FILE, write_curve
from adapters.training.fitting import Fitting, HeldOut, resumable, training_key, why_ended
from adapters.training.material import Material, training_material
from adapters.training.order import FeatureSource, TrainingOrder
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
        AdapterError: no adapter of this kind for such a split.
        CorpusError: too little text.
        TooFewStepsError: too few minutes; nothing long has begun then.
    """
    placed = Placed(device=options.device)
    model = load_whole_model(options.device_bundle, options.cloud_bundle, placed)
    check_split(options.kind, model.manifest.num_output_layers)
    check_model(model.manifest.shape)
    options = replace(options, recipe=replace(options.recipe, number_format=_format(options)))
    # Before the long work, so that a useless held-out text is told at once.
    material = training_material(options, model.device_bundle)
    samples = material.trained
    vocabulary = choose_vocabulary(
        samples,
        material.judged,
        model.manifest.shape.vocab_size,
        options.coverage,
        options.max_draft_vocabulary,
    )
    head, key = draft_head(model, vocabulary), training_key(model, samples, vocabulary)
    source = _feature_source(options, model, progress)
    order = TrainingOrder(source, samples, options.max_state_bytes, options.recipe.batch_windows)
    if options.minutes is not None and resumable(options, order, key) is None:
        check_minutes(options.minutes, options, model, head, samples, clock)
    features = source.features(material.held_out, "held-out")
    # Computed before the clock of the steps runs.
    order.at(0, options.recipe)
    held_out = HeldOut(features, len(material.held_out))
    fitting = Fitting(options, model, head, order, key, held_out, progress, clock)
    network, at = fitting.run()
    before = stored_before(model.device_bundle)
    new = _NewAdapter(options, model.manifest, network, vocabulary)
    rival = None if before is None else Rival(before, options.cost_of(before.path))
    texts = material.greedy or held_out_texts(options, model, material.prompts, progress, clock)
    calibration = calibrate(options, model, Candidate(network, head, new.cost()), rival, texts)
    figures = _figures(options, at, material, order, vocabulary, calibration)
    card = new.write(options.out_folder, calibration.stop_threshold, figures)
    write_curve(options.out_folder / CURVE_FILE, at.history)
    return TrainedAdapter(options.out_folder, card, calibration.comparison)


def _format(options: TrainOptions) -> Literal["float32", "bfloat16"]:
    """What the features, and the products of the steps, are computed in."""
    if options.number_format != "auto":
        return options.number_format
    if (earlier := number_format_in(options.work)) is not None:
        return earlier
    is_float32 = faster_dtype(options.device, time.process_time) == torch.float32
    return "float32" if is_float32 else "bfloat16"


def _feature_source(options: TrainOptions, model: WholeModel, progress: Progress) -> FeatureSource:
    """Where features come from, in the number format that is asked for or fast here."""
    number_format = options.recipe.number_format
    layout = layout_of(model.manifest, options.wide_states, number_format)

    def load_model() -> WholeModel:
        if number_format == "float32":
            return model
        placed = Placed(torch.bfloat16, options.device)
        return load_whole_model(options.device_bundle, options.cloud_bundle, placed)

    return FeatureSource(load_model, model.manifest, layout, options.work, progress)


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
    material: Material,
    order: TrainingOrder,
    vocabulary: NDArray[np.int32] | None,
    calibration: Calibration,
) -> TrainingFigures:
    comparison = calibration.comparison
    return TrainingFigures(
        steps=at.step,
        corpus_tokens=sum(len(sample.token_ids) for sample in material.trained),
        passes=at.step / order.steps_per_pass,
        loss=at.recent_loss,
        training_s=at.training_s,
        seed=at.recipe.seed,
        tokens_per_round=calibration.full_tokens_per_round,
        stopped_tokens_per_round=comparison.now.tokens_per_round,
        cost=calibration.cost,
        ended=why_ended(at),
        num_prompts=comparison.num_prompts,
        speed=comparison.now.speed,
        ngram_tokens_per_round=comparison.ngram.tokens_per_round,
        ngram_speed=comparison.ngram.speed,
        num_conversations=None if options.conversations is None else len(material.trained),
        coverage=covered_share(material.judged, vocabulary),
    )


@dataclass(frozen=True, slots=True)
class _NewAdapter:
    """What is written of a training."""

    options: TrainOptions
    manifest: Manifest
    network: AdapterNetwork
    vocabulary: NDArray[np.int32] | None

    def cost(self) -> DraftCost:
        """What drafting with it costs, which nobody knows before it is on a device."""
        with TemporaryDirectory(prefix="hat-adapter-") as name:
            self.write(Path(name), 0.0, None)
            return self.options.cost_of(Path(name))

    def write(
        self, folder: Path, stop_threshold: float, figures: TrainingFigures | None
    ) -> AdapterCard:
        """Weights first: until the card follows, the folder's adapter does not pass its checks."""
        folder.mkdir(parents=True, exist_ok=True)
        options, manifest, vocabulary = self.options, self.manifest, self.vocabulary
        card = AdapterCard(
            format_version=FORMAT_VERSION,
            kind=options.kind,
            closing_norm=options.has_closing_norm,
            draft_vocabulary_size=None if vocabulary is None else len(vocabulary),
            shape=adapter_shape(manifest.shape),
            fingerprint=manifest.fingerprint,
            num_input_layers=manifest.num_input_layers,
            num_output_layers=manifest.num_output_layers,
            stop_threshold=stop_threshold,
            max_draft_tokens=options.calibration.max_draft_tokens,
            training=figures,
            weights=write_weights(folder, network_tensors(self.network), vocabulary),
        )
        write_card(folder, card)
        return card
