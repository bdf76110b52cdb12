"""A base model's tensors with an adapter's updates added, as peft's `merge_and_unload` has them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch

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
# Of an embedding, both turned around, as its weight has a row for each input.
_DOWN_OF_TABLE, _UP_OF_TABLE = ".lora_embedding_A", ".lora_embedding_B"
_MAGNITUDE = ".lora_magnitude_vector"
# How a weight or bias of a module with an update is called that is saved whole.
_WHOLE = ".base_layer."
_TORCH = MappingProxyType({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16})
_TOKENS = ".token_adapter.trainable_tokens_delta"
_ENDS = (_DOWN, _DOWN_OF_TABLE, _TOKENS)
"""Of what changes a tensor, and comes behind what is brought whole."""
_KINDS_REFUSED = ("lora_B.bias",)


@dataclass(frozen=True, slots=True)
class _Merged(ReadThrough):
    """A matrix `[N, K]` and its update `scaling * up @ down`, a `SourceTensor`.

    Added in float32 and rounded once, to the base's format. With a `magnitude` (DoRA) each row of
    the sum is then as long as it says. The product is torch's, as peft's is: libraries add up in
    different orders.
    """

    up: SourceTensor
    down: SourceTensor
    scaling: float
    magnitude: SourceTensor | None = None
    is_table: bool = False
    """`up` and `down` are those of an embedding: `[r, N]` and `[K, r]`, to be turned around."""

    @property
    def name(self) -> str:
        return self.source.name

    def pieces(self) -> Iterator[bytes]:
        up, down = _float32(self.up), _float32(self.down)
        lengths = None if self.magnitude is None else _float32(self.magnitude)
        first = 0
        for rows in row_steps(self.source, self._rows_at_a_time()):
            last = first + len(rows)
            if self.is_table:
                update = (down @ up[:, first:last]).T * self.scaling
                # Of an embedding peft rounds the update by itself as well.
                update = update.to(_TORCH[self.dtype]).float()
            else:
                update = (up[first:last] @ down) * self.scaling
            merged = torch.from_numpy(rows.astype(np.float32)) + update
            if lengths is not None:
                factors = lengths[first:last] / torch.linalg.norm(merged, dim=1)
                merged = factors[:, None] * merged
            yield cast(merged.numpy().tobytes(), "F32", self.dtype, self.name)
            first = last

    def _rows_at_a_time(self) -> int:
        """All steps alike, since products of a few rows are added up in another order."""
        num_rows = self.shape[0]
        num_steps = -(-self.num_bytes // PIECE_BYTES)
        return -(-num_rows // max(1, num_steps))


def _float32(source: SourceTensor) -> torch.Tensor:
    return torch.from_numpy(whole(source).astype(np.float32))


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


@dataclass(frozen=True, slots=True)
class _WithRows(ReadThrough):
    """A table some of whose rows the adapter brings whole, a `SourceTensor`."""

    rows: SourceTensor
    places: tuple[int, ...]
    """Which rows of the table, one for each of `rows`."""

    @property
    def name(self) -> str:
        return self.source.name

    def pieces(self) -> Iterator[bytes]:
        brought = whole(self.rows)
        dtype, first = NUMPY_DTYPES[self.dtype], 0
        row_bytes = self.num_bytes // self.shape[0]
        for rows in row_steps(self.source, max(1, PIECE_BYTES // row_bytes)):
            some = rows.copy()
            for place, row in zip(self.places, brought, strict=True):
                if first <= place < first + len(some):
                    data = cast(row.tobytes(), self.rows.dtype, self.dtype, self.name)
                    some[place - first] = np.frombuffer(data, dtype)
            yield some.tobytes()
            first += len(some)


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
    for name in sorted(adapter.tensors, key=lambda name: name.endswith(_ENDS)):
        inner = text_name(name.removeprefix(_BEFORE))
        if inner is None or name.endswith((_UP, _UP_OF_TABLE)):
            # What sees pictures, and the second half of a pair.
            continue
        if name.endswith(_MAGNITUDE):
            if name.removesuffix(_MAGNITUDE) + _DOWN in adapter.tensors:
                continue
            raise UnsupportedModelError(f"{adapter.path}: {name} is not supported in an adapter")
        end = next((end for end in _ENDS if name.endswith(end)), "")
        target = inner.removesuffix(end) + ".weight" if end else inner
        target = target.replace(_WHOLE, ".")
        # Rows that are brought whole are a tied head's too, where that is not on disk beside it.
        is_of_both = (end, target) == (_TOKENS, EMBEDDING) and LM_HEAD not in places
        if is_tied and target in (EMBEDDING, LM_HEAD) and not is_of_both:
            raise UnsupportedModelError(
                f"{adapter.path}: {name} changes one of embedding and head, which are tied in "
                f"{base.path}; merge it with peft, which changes both"
            )
        place = places.get(target)
        if not name.startswith(_BEFORE) or place is None:
            raise CheckpointError(f"{adapter.path}: {name} is an update of nothing in {base.path}")
        tensors[place] = _changed(tensors[place], adapter, name, end, settings)
    return replace(base, path=adapter.path, tensors=MappingProxyType(tensors))


def _changed(
    source: SourceTensor, adapter: Checkpoint, name: str, end: str, settings: LoraSettings
) -> SourceTensor:
    """What a tensor of the adapter, whose name ends so, makes of the base's."""
    if end == _TOKENS:
        return _with_rows(source, adapter, name, settings)
    if end:
        return _merged(source, adapter, name, end, settings)
    _check_shape(adapter, name, adapter.tensors[name].shape, source.shape)
    return _Replaced(source, adapter.tensors[name])


def _merged(
    source: SourceTensor, adapter: Checkpoint, name: str, end: str, settings: LoraSettings
) -> SourceTensor:
    before, is_table = name.removesuffix(end), end == _DOWN_OF_TABLE
    module = before.removeprefix(_BEFORE)
    other = before + (_UP_OF_TABLE if is_table else _UP)
    if other not in adapter.tensors:
        raise CheckpointError(f"{adapter.path} has {name} and no {other}")
    if len(source.shape) != 2:
        raise CheckpointError(f"{adapter.path}: {name} is an update of {source.name}, no matrix")
    rank, (rows, columns) = settings.rank_of(module), source.shape
    down, up = adapter.tensors[name], adapter.tensors[other]
    _check_shape(adapter, name, down.shape, (rank, rows if is_table else columns))
    _check_shape(adapter, other, up.shape, (columns if is_table else rows, rank))
    scaling = settings.scaling(module)
    if is_table:
        return _Merged(source, down, up, scaling, is_table=True)
    return _Merged(source, up, down, scaling, _magnitude(adapter, before, rows, settings))


def _with_rows(
    source: SourceTensor, adapter: Checkpoint, name: str, settings: LoraSettings
) -> SourceTensor:
    places = settings.tokens_of(name.removeprefix(_BEFORE).removesuffix(_TOKENS))
    if any(place >= source.shape[0] for place in places):
        raise CheckpointError(
            f"{adapter.path}: trainable_token_indices: expected ids below {source.shape[0]}, got "
            f"{max(places)}"
        )
    _check_shape(adapter, name, adapter.tensors[name].shape, (len(places), source.shape[1]))
    return _WithRows(source, adapter.tensors[name], places)


def _magnitude(
    adapter: Checkpoint, module: str, num_rows: int, settings: LoraSettings
) -> SourceTensor | None:
    """How long DoRA has each row of a module's weight."""
    name = module + _MAGNITUDE
    if (name in adapter.tensors) != settings.is_decomposed:
        raise CheckpointError(
            f"{adapter.path}: use_dora is {settings.is_decomposed} in its settings, and {name} is "
            f"{'not ' if settings.is_decomposed else ''}there"
        )
    if not settings.is_decomposed:
        return None
    _check_shape(adapter, name, adapter.tensors[name].shape, (num_rows,))
    return adapter.tensors[name]


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
