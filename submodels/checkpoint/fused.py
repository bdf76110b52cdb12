"""Matrices that a checkpoint holds as one, read as the several that a layer is described with."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from submodels.checkpoint.checkpoint import Checkpoint, SourceTensor
from submodels.manifest import ModelShape
from submodels.tensors.tensor_layout import layer_name, layer_tensor_shapes

_FUSED: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "qkv": (
            "self_attn.qkv_proj.weight",
            tuple(f"self_attn.{name}_proj.weight" for name in "qkv"),
        ),
        "gate_up": (
            "mlp.gate_up_proj.weight",
            ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        ),
    }
)
"""By its name in `Family.fused`: the one matrix, and the several above each other in it."""


def unfused(checkpoint: Checkpoint, shape: ModelShape, fused: Collection[str]) -> Checkpoint:
    """The checkpoint with its fused matrices as several; what is not fused in it stays.

    A matrix whose rows are not those of its parts stays too, and is then an unknown tensor.
    """
    tensors = dict(checkpoint.tensors)
    for index in range(shape.num_layers):
        sizes = layer_tensor_shapes(shape.of_layer(index))
        for whole, parts in (_FUSED[name] for name in sorted(fused)):
            source = tensors.get(layer_name(index, whole))
            num_rows = sum(sizes[part][0] for part in parts)
            if source is None or source.shape != (num_rows, sizes[parts[0]][1]):
                continue
            del tensors[source.name]
            first = 0
            for part in parts:
                name, end = layer_name(index, part), first + sizes[part][0]
                tensors[name] = RowsOf(name, source, first, end)
                first = end
    return Checkpoint(checkpoint.path, checkpoint.folder, MappingProxyType(tensors))


@dataclass(frozen=True, slots=True)
class RowsOf:
    """Rows `[first, end)` of a matrix, a `SourceTensor`."""

    name: str
    source: SourceTensor
    first: int
    end: int

    @property
    def dtype(self) -> str:
        """As in the whole."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return (self.end - self.first, *self.source.shape[1:])

    @property
    def num_bytes(self) -> int:
        """How many bytes all pieces have."""
        return self._row_bytes * (self.end - self.first)

    @property
    def _row_bytes(self) -> int:
        return self.source.num_bytes // self.source.shape[0]

    def pieces(self) -> Iterator[bytes]:
        """See `SourceTensor.pieces`; what lies before is read and dropped."""
        position, begin, end = 0, self._row_bytes * self.first, self._row_bytes * self.end
        for piece in self.source.pieces():
            cut = piece[max(0, begin - position) : max(0, end - position)]
            position += len(piece)
            if cut:
                yield cut
            if position >= end:
                return
