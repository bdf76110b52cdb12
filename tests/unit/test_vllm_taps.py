"""Rows between two layers of vLLM's: of classes that carry a residual, and of those that do not."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cloud_server.engines.vllm.models import ResidualSum, Taps, run_tapped

Layer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], tuple[Any, Any]]


def _closed(positions: torch.Tensor, rows: torch.Tensor, residual: None = None) -> tuple[Any, None]:
    return rows * 2 + 1, None


def _carried(
    positions: torch.Tensor, update: torch.Tensor, residual: torch.Tensor | None = None
) -> tuple[Any, Any]:
    """The same stream, of which what the layer adds is kept apart."""
    stream = update if residual is None else update + residual
    return stream + 1, stream


def _stage(layer: Layer, first: int, end: int, is_last: bool) -> Any:
    layers = [layer] * 4
    norm = ResidualSum() if is_last else None
    stack = SimpleNamespace(start_layer=first, end_layer=end, layers=layers, norm=norm)
    return SimpleNamespace(model=stack)


@pytest.mark.parametrize("layer", [_closed, _carried])
def test_taps_are_the_stream_after_so_many_layers(layer: Layer) -> None:
    rows = torch.arange(6.0).view(3, 2)
    taps = Taps([1, 3], torch.tensor([0, 2]))
    model = _stage(layer, 0, 4, True)
    deep, tapped = run_tapped(model, rows, {}, torch.arange(3), taps)
    streams = [rows]
    for _ in range(4):
        streams.append(streams[-1] * 2 + 1)
    assert isinstance(deep, torch.Tensor)
    assert torch.equal(deep, streams[4])
    assert {depth: tapped[depth].tolist() for depth in tapped} == {
        1: streams[1][[0, 2]].tolist(),
        3: streams[3][[0, 2]].tolist(),
    }


@pytest.mark.parametrize(
    ("layer", "carried"), [(_closed, {"hidden_states"}), (_carried, {"hidden_states", "residual"})]
)
def test_a_stage_hands_on_what_its_layers_carry(layer: Layer, carried: set[str]) -> None:
    rows, taps = torch.arange(6.0).view(3, 2), Taps([2], torch.tensor([1]))
    partial, tapped = run_tapped(_stage(layer, 0, 1, False), rows, {}, torch.arange(3), taps)
    assert not isinstance(partial, torch.Tensor)
    assert partial.keys() == carried
    assert not tapped
    deep, tapped = run_tapped(_stage(layer, 1, 2, True), None, partial, torch.arange(3), taps)
    assert isinstance(deep, torch.Tensor)
    assert torch.equal(deep, rows * 4 + 3)
    assert torch.equal(tapped[2], deep[1:2])
