"""Experts' matrices, of which a GGUF file has all of a layer in one tensor, `[experts, rows, ...]`.

Most families have them one by one. gpt-oss has them in one tensor as well, but the other way round,
inputs first, and with gate and up in turn.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.gguf.file import GgufFile
from submodels.checkpoint.gguf.header import StoredTensor
from submodels.checkpoint.gguf.tensor import PLAIN, GgufTensor, rows_of
from submodels.errors import CheckpointError
from submodels.tensors.tensor_file import NUMPY_DTYPES

# The largest models of today have some ten thousands.
_MAX_MATRICES = 1 << 18
_GATE_AND_UP = "ffn_gate_up_exps"
_GATE, _UP, _DOWN = "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"


def one_by_one(
    file: GgufFile, names: Mapping[str, str], stored: Mapping[str, StoredTensor]
) -> list[SourceTensor]:
    """Each expert's matrices, named after `names`, which has `{}` for its number.

    What `names` does not know keeps its name.

    Raises:
        CheckpointError: another number of experts than the file says, or absurdly many matrices.
    """
    if len(stored) * file.integer("expert_count", 0) > _MAX_MATRICES:
        raise CheckpointError(f"{file.path}: {len(stored)} tensors of experts are too many")
    tensors: list[SourceTensor] = []
    for own_name, tensor in stored.items():
        match own_name.split("."):
            case ["blk", index, kind, "weight"] if kind in names:
                whole = [names[kind]]
            case ["blk", index, kind, "weight"] if kind == _GATE_AND_UP and _GATE in names:
                whole = [names[_GATE], names[_UP]]
            case _:
                tensors.append(GgufTensor(own_name, tensor, None))
                continue
        num_rows = _rows_of_expert(file, own_name, tensor) // len(whole)
        for number in range(len(whole) * tensor.shape[0]):
            expert, part = divmod(number, len(whole))
            name = f"model.layers.{index}.{whole[part].format(expert)}.weight"
            tensors.append(GgufTensor(name, rows_of(tensor, number * num_rows, num_rows), None))
    return tensors


def _rows_of_expert(file: GgufFile, name: str, stored: StoredTensor) -> int:
    num_experts = file.integer("expert_count")
    if len(stored.shape) < 2 or stored.shape[0] != num_experts:
        raise CheckpointError(
            f"{file.path}: {name}: expected {num_experts} experts, got the shape {stored.shape}"
        )
    return int(np.prod(stored.shape[1:-1]))


@dataclass(frozen=True, slots=True)
class TurnedExperts:
    """All experts' matrices, inputs first, a `SourceTensor`.

    `parts`: tensors `[E, outputs, inputs]`, or biases `[E, outputs]`, whose outputs come in turn.
    """

    name: str
    parts: tuple[StoredTensor, ...]

    @property
    def dtype(self) -> str:
        """As of the parts."""
        return self._part(0, 0).dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """`[E, inputs, outputs]`, or `[E, outputs]`."""
        num_experts, num_outputs, *inputs = self.parts[0].shape
        return (num_experts, *inputs, num_outputs * len(self.parts))

    @property
    def num_bytes(self) -> int:
        """The bytes of all pieces."""
        return int(np.prod(self.shape)) * NUMPY_DTYPES[self.dtype].itemsize

    def pieces(self) -> Iterator[bytes]:
        """See `SourceTensor.pieces`; a piece is one expert, which is in memory meanwhile."""
        numbers = NUMPY_DTYPES[self.dtype]
        for expert in range(self.shape[0]):
            pieces = [b"".join(self._part(expert, i).pieces()) for i in range(len(self.parts))]
            matrices = [np.frombuffer(piece, numbers) for piece in pieces]
            num_outputs = self.parts[0].shape[1]
            in_turn = np.stack([each.reshape(num_outputs, -1) for each in matrices], axis=1)
            yield in_turn.reshape(num_outputs * len(matrices), -1).T.tobytes()

    def _part(self, expert: int, index: int) -> GgufTensor:
        stored = self.parts[index]
        num_rows = int(np.prod(stored.shape[1:-1]))
        return GgufTensor(self.name, rows_of(stored, expert * num_rows, num_rows), None)


def stacked(file: GgufFile, stored: Mapping[str, StoredTensor]) -> list[SourceTensor]:
    """The tensors of gpt-oss' experts; what it has none of keeps its name.

    Raises:
        CheckpointError: another number of experts than the file says, or parts of one tensor that
            differ in shape or format.
    """
    tensors: list[SourceTensor] = []
    left = dict(stored)
    for own_name in stored:
        match own_name.split("."):
            case ["blk", index, kind, ("weight" | "bias") as suffix] if kind in (_GATE, _DOWN):
                others = [f"blk.{index}.{_UP}.{suffix}"] if kind == _GATE else []
            case _:
                continue
        if any(other not in left for other in others):
            continue
        parts = tuple(left.pop(name) for name in (own_name, *others))
        for name, part in zip((own_name, *others), parts, strict=True):
            _rows_of_expert(file, name, part)
        if len({(part.shape, PLAIN.get(part.type, "F32")) for part in parts}) > 1:
            raise CheckpointError(
                f"{file.path}: {own_name} and {others[0]} differ in shape or format"
            )
        name = "gate_up_proj" if others else "down_proj"
        name = f"model.layers.{index}.mlp.experts.{name}{'_bias' * (suffix == 'bias')}"
        tensors.append(TurnedExperts(name, parts))
    return tensors + [GgufTensor(name, tensor, None) for name, tensor in left.items()]
