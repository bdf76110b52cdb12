"""A base model's tensors with an adapter's updates added, as peft's `merge_and_unload` has them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from submodels.checkpoint.checkpoint import PIECE_BYTES, Checkpoint, ReadThrough, SourceTensor
from submodels.checkpoint.lora.settings import LoraSettings
from submodels.checkpoint.reading import row_steps, whole
from submodels.errors import CheckpointError, UnsupportedModelError
from submodels.plan.wrappers import text_name
from submodels.tensors.number_format import cast
from submodels.tensors.tensor_file import NUMPY_DTYPES
from submodels.tensors.tensor_layout import EMBEDDING, LM_HEAD

_BEFORE = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# How a weight or bias of a module with an update is called that is saved whole.
_WHOLE = ".base_layer."
_KINDS_REFUSED = ("lora_embedding_", "lora_magnitude_vector", "lora_B.bias", "token_adapter")


@dataclass(frozen=True, slots=True)
class _Merged(ReadThrough):
    """A matrix `[N, K]` and its update `scaling * up @ down`, a `SourceTensor`.

    Added in float32 and rounded once, to the base's format.
    """

    up: SourceTensor
    down: SourceTensor
    scaling: float

    @property
    def name(self) -> str:
        return self.source.name

    def pieces(self) -> Iterator[bytes]:
        up, down = (whole(part).astype(np.float32) for part in (self.up, self.down))
        first = 0
        for rows in row_steps(self.source, max(1, PIECE_BYTES * self.shape[0] // self.num_bytes)):
            last = first + len(rows)
            update = (up[first:last] @ down) * np.float32(self.scaling)
            merged = rows.astype(np.float32) + update
            yield cast(merged.tobytes(), "F32", self.dtype, self.name)
            first = last


@dataclass(frozen=True, slots=True)
class _Replaced(ReadThrough):
    """A tensor that the adapter brings whole, in the base's format, a `SourceTensor`."""

    instead: SourceTensor

    @property
    def name(self) -> str:
        return self.source.name

    def pieces(self) -> Iterator[bytes]:
        for piece in self.instead.pieces():
            yield cast(piece, self.instead.dtype, self.dtype, self.name)


def merged_tensors(
    base: Checkpoint, adapter: Checkpoint, settings: LoraSettings, is_tied: bool
) -> Checkpoint:
    """The base with every update of the adapter in it.

    `is_tied`: whether the base's configuration ties the head to the embedding.

    Raises:
        UnsupportedModelError: something in the adapter that is no plain update of a matrix.
        CheckpointError: an update of what the base does not have, or in another shape.
    """
    tensors = dict(base.tensors)
    # The adapter's names are those within transformers; of a wrapper those on disk may differ.
    places = {text_name(name): name for name in tensors}
    for name in adapter.tensors:
        if any(kind in name for kind in _KINDS_REFUSED):
            raise UnsupportedModelError(f"{adapter.path}: {name} is not supported in an adapter")
    # What comes whole comes before its updates.
    for name in sorted(adapter.tensors, key=lambda name: name.endswith(_DOWN)):
        inner = text_name(name.removeprefix(_BEFORE))
        if inner is None or name.endswith(_UP):
            # What sees pictures, and the second half of a pair.
            continue
        target = inner.removesuffix(_DOWN) + ".weight" if name.endswith(_DOWN) else inner
        target = target.replace(_WHOLE, ".")
        if is_tied and target in (EMBEDDING, LM_HEAD):
            raise UnsupportedModelError(
                f"{adapter.path}: {name} changes one of embedding and head, which are tied in "
                f"{base.path}; merge it with peft, which changes both"
            )
        place = places.get(target)
        if not name.startswith(_BEFORE) or place is None:
            raise CheckpointError(f"{adapter.path}: {name} is an update of nothing in {base.path}")
        if name.endswith(_DOWN):
            tensors[place] = _merged(tensors[place], adapter, name, settings)
        else:
            source = adapter.tensors[name]
            _check_shape(adapter, name, source.shape, tensors[place].shape)
            tensors[place] = _Replaced(tensors[place], source)
    return replace(base, path=adapter.path, tensors=MappingProxyType(tensors))


def _merged(
    source: SourceTensor, adapter: Checkpoint, name: str, settings: LoraSettings
) -> SourceTensor:
    module = name.removeprefix(_BEFORE).removesuffix(_DOWN)
    other = name.removesuffix(_DOWN) + _UP
    if other not in adapter.tensors:
        raise CheckpointError(f"{adapter.path} has {name} and no {other}")
    down, up = adapter.tensors[name], adapter.tensors[other]
    rank = settings.rank_of(module)
    if len(source.shape) != 2:
        raise CheckpointError(f"{adapter.path}: {name} is an update of {source.name}, no matrix")
    _check_shape(adapter, name, down.shape, (rank, source.shape[1]))
    _check_shape(adapter, other, up.shape, (source.shape[0], rank))
    return _Merged(source, up, down, settings.scaling(module))


def _check_shape(
    adapter: Checkpoint, name: str, came: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    if came != expected:
        raise CheckpointError(f"{adapter.path}: {name}: expected shape {expected}, got {came}")
    if adapter.tensors[name].dtype not in NUMPY_DTYPES:
        raise CheckpointError(
            f"{adapter.path}: {name}: expected one of {', '.join(NUMPY_DTYPES)}, got "
            f"{adapter.tensors[name].dtype}"
        )
