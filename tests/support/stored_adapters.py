"""Adapters on disk, trained and untrained, and bundles with them."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.data.whole_model import load_whole_model
from adapters.draft_cost import DraftCost
from adapters.install import install_adapter
from adapters.networks import (
    AdapterNetwork,
    BlockAdapter,
    FedAdapter,
    build_network,
    load_network,
    network_tensors,
    start_as,
)
from adapters.storage import (
    FORMAT_VERSION,
    SEQUEL,
    AdapterCard,
    Kind,
    TrainingFigures,
    adapter_shape,
    load_adapter,
    write_card,
    write_weights,
)
from submodels.bundle.layer_weights import Placed
from submodels.manifest import Manifest
from submodels.split import SplitOptions, split_checkpoint
from tests.support.reference import STORIES

ADAPTER = STORIES.parent / "stories260k-adapter"
"""The adapter that comes with the story model."""

FIGURES = TrainingFigures(
    steps=1,
    corpus_tokens=2,
    passes=0.5,
    loss=1.0,
    training_s=0.1,
    seed=0,
    tokens_per_round=1.5,
    stopped_tokens_per_round=1.2,
    cost=DraftCost(),
)
"""What a training might have said of itself."""


def random_network(manifest: Manifest, kind: Kind, closing_norm: bool) -> AdapterNetwork:
    """An adapter whose every weight matters."""
    network = build_network(kind, adapter_shape(manifest.shape), closing_norm)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # The sequel's matrices are wide whatever the model, and feed each other place by place.
            size = 0.04 if name.startswith(SEQUEL) else 0.2
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(size * noise if parameter.dim() > 1 else 1 + 0.2 * noise)
    return network


def store_random_adapter(
    folder: Path,
    manifest: Manifest,
    kind: Kind,
    draft_vocabulary: NDArray[np.int64] | None = None,
) -> AdapterCard:
    """Write a random adapter for this bundle; attention adapters end in a norm."""
    closing_norm = kind == "attention"
    network = random_network(manifest, kind, closing_norm)
    return _store(folder, manifest, network, kind, draft_vocabulary)


def split_with_adapter(
    model: Path, out: Path, adapter: Path | None, num_input: int = 1, num_output: int = 0
) -> Path:
    """Bundles in every weights format below `out`, with an adapter where one is given."""
    split_checkpoint(SplitOptions(str(model), out, num_input, num_output))
    if adapter is not None:
        install_adapter(out, adapter)
    return out


def install_early_adapter(bundles: Path, folder: Path) -> None:
    """Give a bundle pair the first middle layer as its adapter: often wrong, not always."""
    model = load_whole_model(bundles, bundles, Placed())
    network = build_network("layer", adapter_shape(model.manifest.shape), closing_norm=False)
    start_as(network, model.middle_layers[0])
    _store(folder, model.manifest, network, "layer")
    install_adapter(bundles, folder)


def install_fed_adapter(
    bundles: Path, folder: Path, draft_vocabulary: NDArray[np.int64] | None = None
) -> None:
    """Give the story model's bundle pair an adapter that is fed, and a little worse for it."""
    model = load_whole_model(bundles, bundles, Placed())
    manifest = model.manifest
    network = build_network("fed", adapter_shape(manifest.shape), closing_norm=False)
    assert isinstance(network, FedAdapter)
    if manifest.num_output_layers:
        start_as(network, model.middle_layers[0])
    else:
        trained = load_network(load_adapter(ADAPTER, manifest)).state_dict()
        network.load_state_dict(network.state_dict() | trained)
    with torch.no_grad():
        noise = torch.randn(network.fc.weight.shape, generator=torch.Generator().manual_seed(0))
        network.fc.weight.copy_(0.01 * noise)
    _store(folder, manifest, network, "fed", draft_vocabulary)
    install_adapter(bundles, folder)


def install_block_adapter(
    bundles: Path, folder: Path, draft_vocabulary: NDArray[np.int64] | None = None
) -> None:
    """Give the story model's bundle pair an adapter that drafts blocks, good at first places.

    Its second layer is the shipped adapter, its first one hardly changes anything.
    """
    model = load_whole_model(bundles, bundles, Placed())
    manifest = model.manifest
    network = random_network(manifest, "block", closing_norm=False)
    assert isinstance(network, BlockAdapter)
    trained = load_network(load_adapter(ADAPTER, manifest)).state_dict()
    network.load_state_dict(network.state_dict() | trained)
    with torch.no_grad():
        for part in (network.first, network.fc, network.sequel.out):
            for parameter in part.parameters():
                parameter.mul_(0.05)
    _store(folder, manifest, network, "block", draft_vocabulary)
    install_adapter(bundles, folder)


def _store(
    folder: Path,
    manifest: Manifest,
    network: AdapterNetwork,
    kind: Kind,
    draft_vocabulary: NDArray[np.int64] | None = None,
) -> AdapterCard:
    folder.mkdir(parents=True, exist_ok=True)
    card = AdapterCard(
        format_version=FORMAT_VERSION,
        kind=kind,
        closing_norm=kind == "attention",
        shape=adapter_shape(manifest.shape),
        fingerprint=manifest.fingerprint,
        num_input_layers=manifest.num_input_layers,
        num_output_layers=manifest.num_output_layers,
        stop_threshold=0.0,
        max_draft_tokens=6,
        training=FIGURES,
        draft_vocabulary_size=None if draft_vocabulary is None else len(draft_vocabulary),
        weights=write_weights(folder, network_tensors(network), draft_vocabulary),
    )
    write_card(folder, card)
    return card
