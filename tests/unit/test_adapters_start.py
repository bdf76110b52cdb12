"""A start that is solved for: what is linear is found, and the better start is taken."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from adapters.data.features import FeatureBatch, cached_features, layout_of
from adapters.data.sample import Sample
from adapters.networks import FedAdapter, build_network, start_as
from adapters.storage import adapter_shape
from adapters.training.learning.closed_form import solve_start
from submodels.bundle.layers import rms_norm
from tests.support.adapter_models import make_whole_model

SIZE, LENGTH = 32, 150


def planted(matrix: torch.Tensor, eps: float) -> FeatureBatch:
    """Texts whose deep rows are exactly what a feed with this matrix makes of the rows before."""
    generator = torch.Generator().manual_seed(0)
    shallow, ones = torch.randn(4, LENGTH, SIZE, generator=generator), torch.ones(SIZE)
    deep = torch.zeros_like(shallow)
    for place in range(LENGTH):
        row = shallow[:, place]
        before = rms_norm(deep[:, place - 1], ones, eps) if place else torch.zeros_like(row)
        deep[:, place] = row + torch.cat((rms_norm(row, ones, eps), before), -1) @ matrix.T
    within = torch.ones(4, LENGTH, dtype=torch.bool)
    fed = within.clone()
    fed[:, 0] = False
    nothing = torch.zeros(4, LENGTH, 1)
    return FeatureBatch(
        token_ids=nothing[..., 0].long(),
        shallow=shallow,
        deep=deep,
        top=deep,
        within=within,
        scored=within,
        fed=fed,
        likeliest=nothing.long(),
        log_probs=nothing,
    )


def test_a_feed_that_explains_everything_is_found(tmp_path: Path) -> None:
    shape = adapter_shape(make_whole_model(tmp_path).manifest.shape)
    network = build_network("fed", shape, closing_norm=False)
    assert isinstance(network, FedAdapter)
    matrix = torch.randn(SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(1)) / 8
    batch, parts = planted(matrix, shape.rms_norm_eps), []

    def batches() -> Iterator[FeatureBatch]:
        yield batch

    solve_start(network, batches, lambda: parts.append(1))
    assert len(parts) == 2
    torch.testing.assert_close(network.fc.weight.data, matrix, rtol=0.02, atol=2e-3)
    # Nothing is left for attention and MLP to add.
    with torch.no_grad():
        estimates = network(batch.shallow, torch.roll(batch.deep, 1, 1), batch.fed)
    torch.testing.assert_close(estimates, batch.deep, rtol=0.05, atol=0.02)


def test_every_kind_begins_nearer_to_the_deep_rows_than_as_a_layer(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path)
    shape = adapter_shape(model.manifest.shape)
    generator = np.random.Generator(np.random.Philox(3))
    tokens = [generator.integers(3, 60, 90).astype(np.int32) for _ in range(40)]
    samples = [Sample(one, ((4, 90),)) for one in tokens]
    layout = layout_of(model.manifest, True, "float32")
    features = cached_features(
        lambda: model, model.manifest, samples, tmp_path / "work", layout, lambda done, of: None
    )

    def batches() -> Iterator[FeatureBatch]:
        yield features.batch(range(20))
        yield features.batch(range(20, 40))

    fresh = next(iter([features.batch(range(40))]))
    for kind in ("attention", "layer", "fed"):
        network = build_network(kind, shape, closing_norm=False)
        start_as(network, model.middle_layers[-1])
        before = distance(network, fresh)
        solve_start(network, batches, lambda: None)
        assert distance(network, fresh) < 0.9 * before


def distance(network: torch.nn.Module, batch: FeatureBatch) -> float:
    with torch.no_grad():
        if isinstance(network, FedAdapter):
            estimates = network(batch.shallow, torch.roll(batch.deep, 1, 1), batch.fed)
        else:
            estimates = network(batch.shallow)
    return float((estimates - batch.deep)[batch.scored].pow(2).mean())
