"""A whole model that can be cut anywhere, and the same one with other ends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adapters.data.whole_model import WholeModel
from hat.audit.attacks.ends import Ends
from submodels.bundle.layers import DecoderLayer, Head, LayerCache, embed, run_layers


@dataclass(frozen=True, slots=True)
class CutModel:
    """All layers of a model between its embedding and its head."""

    table: Tensor
    """The embedding `[V, H]`, as rows enter the first layer."""
    layers: Sequence[DecoderLayer]
    head: Head

    def ends(self, num_layers: int) -> Ends:
        """What computes the rows behind the first layers."""
        return Ends(self.table, self.layers[:num_layers])

    def traced(self, token_ids: Sequence[int], depths: Iterable[int]) -> dict[int, Tensor]:
        """Rows `[T, H]` behind so many layers, for each of the depths, of a text from its start."""
        return traced(embed(self.table, token_ids), self.layers, depths)

    def logits(self, rows: Tensor, depth: int) -> Tensor:
        """Logits `[T, V]` of a text's rows behind `depth` layers."""
        return self.head(through(self.layers[depth:], rows))


def cut_model(model: WholeModel) -> CutModel:
    """The model of two bundles, wherever these cut it."""
    layers = [*model.input_layers, *model.middle_layers, *model.output_layers]
    return CutModel(model.embedding, layers, model.head)


def through(layers: Sequence[DecoderLayer], rows: Tensor) -> Tensor:
    """Rows `[T, H]` of a text from its start behind layers."""
    return run_layers(layers, rows, 0, [LayerCache() for _ in layers])


def traced(
    rows: Tensor, layers: Sequence[DecoderLayer], depths: Iterable[int]
) -> dict[int, Tensor]:
    """Rows behind so many of the layers, for each of the depths."""
    wanted = set(depths)
    found: dict[int, Tensor] = {}
    for depth in range(max(wanted) + 1):
        if depth:
            rows = layers[depth - 1].forward(rows, 0, LayerCache())
        if depth in wanted:
            found[depth] = rows
    return found


def with_other_ends(
    model: CutModel, num_input: int, num_output: int, distance: float, seed: int
) -> CutModel:
    """The model with embedding, first and last layers and head moved; the layers between stay.

    Each tensor gets noise of `distance` times its own length. It stands for weights that somebody
    has trained further and kept to himself: as far away, though not in a direction that serves.
    A layer is moved alike however many are.
    """
    first_output = len(model.layers) - num_output
    layers = [
        _moved(layer, distance, _generator(seed, index))
        if index < num_input or index >= first_output
        else layer
        for index, layer in enumerate(model.layers)
    ]
    table = _moved(model.table, distance, _generator(seed, len(layers)))
    head = _moved(model.head, distance, _generator(seed, len(layers) + 1))
    return CutModel(table, layers, head)


def _generator(seed: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + index)


def _moved(value: Any, distance: float, chance: torch.Generator) -> Any:
    """The same with every tensor in it moved."""
    if isinstance(value, Tensor):
        noise = torch.randn(value.shape, generator=chance).to(value)
        return value + noise * (distance * value.norm() / value.numel() ** 0.5)
    if isinstance(value, list):
        return [_moved(each, distance, chance) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        # What describes the model holds no tensors.
        moved = {
            each.name: _moved(getattr(value, each.name), distance, chance)
            for each in fields(value)
            if each.name not in ("shape", "rope")
        }
        return replace(value, **moved)
    return value
