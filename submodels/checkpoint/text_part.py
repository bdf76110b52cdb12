"""The language model of a checkpoint that may hold more."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from submodels.checkpoint.checkpoint import Checkpoint, ReadThrough, SourceTensor
from submodels.errors import CheckpointError
from submodels.plan.wrappers import is_wrapper, text_config, text_name
from submodels.tensors.tensor_layout import EMBEDDING, LM_HEAD

_PREFIX = "model."


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
        return text, _with_prefix(checkpoint)
    tensors: dict[str, SourceTensor] = {}
    for source in checkpoint.tensors.values():
        name = text_name(source.name)
        if name is None:
            continue
        if name in tensors:
            raise CheckpointError(f"{checkpoint.path} holds {name} twice, once as {source.name}")
        tensors[name] = renamed(source, name)
    return text, replace(checkpoint, tensors=MappingProxyType(tensors))


def renamed(source: SourceTensor, name: str) -> SourceTensor:
    """A tensor under a name, which may be its own."""
    return source if name == source.name else RenamedTensor(source, name)


def _with_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """Names as a model with a head has them, of one that was saved without its head."""
    tensors = checkpoint.tensors
    if EMBEDDING in tensors or EMBEDDING.removeprefix(_PREFIX) not in tensors:
        return checkpoint
    names = {name: name if name == LM_HEAD else f"{_PREFIX}{name}" for name in tensors}
    named = {names[name]: renamed(source, names[name]) for name, source in tensors.items()}
    return replace(checkpoint, tensors=MappingProxyType(named))


def with_embedding(checkpoint: Checkpoint, tied: bool) -> Checkpoint:
    """With the head for an embedding, where they are tied and only the head is on disk.

    Source: `PreTrainedModel.tie_weights` of transformers 5.
    """
    tensors = checkpoint.tensors
    if not tied or EMBEDDING in tensors or LM_HEAD not in tensors:
        return checkpoint
    others = {name: source for name, source in tensors.items() if name != LM_HEAD}
    others[EMBEDDING] = renamed(tensors[LM_HEAD], EMBEDDING)
    return replace(checkpoint, tensors=MappingProxyType(others))
