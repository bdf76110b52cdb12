"""What a quantised checkpoint holds, taken apart: a tensor and what its tool stored beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.quantised.tensors import DequantisedTensor, Numbers
from submodels.errors import CheckpointError

FLOATS = ("F32", "F16", "BF16")


@dataclass(slots=True)
class Held:
    """The tensors of a checkpoint, from which a method takes those that belong together."""

    path: Path
    """What the user named, for messages."""
    tensors: dict[str, SourceTensor]
    """What has not been taken."""
    computed: dict[str, DequantisedTensor] = field(default_factory=dict)

    def ending(self, suffix: str) -> list[str]:
        """The names that end so, without it."""
        return [name.removesuffix(suffix) for name in self.tensors if name.endswith(suffix)]

    def take(self, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> SourceTensor:
        """A tensor that is no longer held. `shapes` none: its shape is not looked at.

        Raises:
            CheckpointError: it is missing, or of another format or shape.
        """
        source = self.tensors.pop(name, None)
        if source is None:
            raise CheckpointError(f"{self.path} lacks {name}: what lies beside it cannot be read")
        if source.dtype not in dtypes:
            raise CheckpointError(
                f"{self.path}: {name}: expected {' or '.join(dtypes)}, got {source.dtype}"
            )
        if shapes and source.shape not in shapes:
            listed = " or ".join(map(str, shapes))
            raise CheckpointError(
                f"{self.path}: {name}: expected shape {listed}, got {source.shape}"
            )
        return source

    def take_matrix(self, name: str, dtypes: tuple[str, ...]) -> SourceTensor:
        """The same for what may be any matrix that is not empty."""
        source = self.take(name, dtypes)
        if len(source.shape) != 2 or 0 in source.shape:
            raise CheckpointError(f"{self.path}: {name}: expected a matrix, got {source.shape}")
        return source

    def take_if_there(
        self, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]
    ) -> SourceTensor | None:
        """The same for what need not be there."""
        return self.take(name, dtypes, *shapes) if name in self.tensors else None

    def drop(self, *suffixes: str) -> None:
        """Leave out what only says how activations or cached keys were rounded."""
        for name in [name for name in self.tensors if name.endswith(suffixes)]:
            del self.tensors[name]

    def put(self, name: str, numbers: Numbers, formats: tuple[str, ...]) -> None:
        """Have a computed tensor instead of what was taken.

        Raises:
            CheckpointError: there is one of that name.
        """
        if name in self.tensors or name in self.computed:
            raise CheckpointError(f"{self.path} holds {name} twice, once quantised")
        self.computed[name] = DequantisedTensor(name, numbers, formats, self.path)

    def all(self) -> Mapping[str, SourceTensor]:
        """What is read instead of what the checkpoint holds."""
        return {**self.tensors, **self.computed}
