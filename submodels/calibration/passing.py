"""Some tokens through a model that has just been split, with one layer in memory at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from submodels.bundle.layer_weights import Placed, load_layer
from submodels.bundle.layers import LayerCache, layer_at
from submodels.manifest import ModelShape
from submodels.tensors.tensor_file import TensorFile
from submodels.tensors.tensor_layout import EMBEDDING, Part


def rows_on_the_link(
    device: Path, cloud: Path, shape: ModelShape, middle: range, token_ids: Sequence[int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The rows `[T, H]` in float32 that go up and that come back, for tokens from position 0.

    `device` and `cloud` hold the parts' safetensors files; `middle` are the cloud's layers.
    """
    ours = TensorFile(device / Part.INPUT.value)
    embedded = np.asarray(ours.read(EMBEDDING)[np.array(token_ids)], np.float32)
    embedded = embedded * np.float32(shape.described.embedding_scale)
    with torch.inference_mode():
        up = _through(torch.from_numpy(embedded), ours, shape, range(middle.start), 0)
        theirs = TensorFile(cloud / Part.MIDDLE.value)
        down = _through(up, theirs, shape, middle, middle.start)
    return up.numpy(), down.numpy()


def _through(
    rows: torch.Tensor, tensors: TensorFile, shape: ModelShape, layers: range, first: int
) -> torch.Tensor:
    """Rows after layers of the model, whose file numbers them from `first`."""
    for index in layers:
        weights = load_layer(tensors, index - first, shape.of_layer(index), Placed())
        rows = layer_at(shape, index, weights).forward(rows, 0, LayerCache())
    return rows
