"""Adapters on disk, untrained: what they say is nonsense, how they are run is not."""

from pathlib import Path

import torch

from adapters.networks import AdapterNetwork, build_network, network_tensors
from adapters.storage import (
    FORMAT_VERSION,
    AdapterCard,
    DraftCost,
    Kind,
    TrainingFigures,
    adapter_shape,
    write_card,
    write_weights,
)
from submodels.manifest import Manifest

_FIGURES = TrainingFigures(
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


def random_network(manifest: Manifest, kind: Kind, closing_norm: bool) -> AdapterNetwork:
    """An adapter whose every weight matters."""
    network = build_network(kind, adapter_shape(manifest.shape), closing_norm)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise if parameter.dim() > 1 else 1 + 0.2 * noise)
    return network


def store_random_adapter(
    folder: Path, manifest: Manifest, kind: Kind, stop_threshold: float = 0.0
) -> AdapterCard:
    """Write a random adapter for this bundle; attention adapters end in a norm."""
    folder.mkdir(parents=True, exist_ok=True)
    closing_norm = kind == "attention"
    network = random_network(manifest, kind, closing_norm)
    card = AdapterCard(
        format_version=FORMAT_VERSION,
        kind=kind,
        closing_norm=closing_norm,
        shape=adapter_shape(manifest.shape),
        fingerprint=manifest.fingerprint,
        num_input_layers=manifest.num_input_layers,
        num_output_layers=manifest.num_output_layers,
        stop_threshold=stop_threshold,
        max_draft_tokens=6,
        training=_FIGURES,
        weights=write_weights(folder, network_tensors(network)),
    )
    write_card(folder, card)
    return card
