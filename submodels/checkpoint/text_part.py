"""The language model of a checkpoint that may hold more."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from submodels.checkpoint.checkpoint import Checkpoint, ReadThrough, SourceTensor
from submodels.errors import CheckpointError
from submodels.plan.wrappers import is_wrapper, text_config, text_name


@dataclass(frozen=True, slots=True)
class RenamedTensor(ReadThrough):
    """A tensor under another name, a `SourceTensor`."""

    name: str

    def pieces(self) -> Iterator[bytes]:
        """See `SourceTensor.pieces`."""
        return self.source.pieces()


def text_part(
    config: Mapping[str, Any], checkpoint: Checkpoint
) -> tuple[dict[str, Any], Checkpoint]:
    """Configuration and tensors of the language model, named as without the wrapper around it.

    Raises:
        UnsupportedModelError: the language model is none of ours.
        CheckpointError: two tensors would have the same name.
    """
    text = text_config(config)
    if not is_wrapper(config):
        return text, checkpoint
    tensors: dict[str, SourceTensor] = {}
    for source in checkpoint.tensors.values():
        name = text_name(source.name)
        if name is None:
            continue
        if name in tensors:
            raise CheckpointError(f"{checkpoint.path} holds {name} twice, once as {source.name}")
        tensors[name] = source if name == source.name else RenamedTensor(source, name)
    return text, replace(checkpoint, tensors=MappingProxyType(tensors))
