"""Whether a checkpoint has the tensors that its configuration asks for, and no others."""

import re
from collections.abc import Mapping, Sequence

from submodels.checkpoint.checkpoint import Checkpoint
from submodels.errors import CheckpointError
from submodels.tensors.tensor_file import NUMPY_DTYPES
from submodels.tensors.tensor_layout import EMBEDDING, FINAL_NORM, LM_HEAD, Placement

# Left over in old Llama checkpoints; the numbers are computed from the configuration.
_COMPUTED = ".rotary_emb."
# They say how cached keys and values would be rounded, which they are not here.
_OF_CACHES = ("k_scale", "v_scale", "q_scale", "kv_scale")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_OF_THE_MODEL = tuple(name.removesuffix("weight") for name in (EMBEDDING, FINAL_NORM, LM_HEAD))


def check_tensors(
    checkpoint: Checkpoint, placed: Sequence[Placement], tied: bool, num_layers: int
) -> tuple[str, ...]:
    """Which tensors are left out, if every one of a plan is there in its shape.

    Left out is what no layer of the model is about, and transformers passes over with a warning:
    heads and layers for training or drafting, parts that see. Another tensor of a part that the
    model has might mean that it is computed in another way.

    Args:
        checkpoint: What is to be split.
        placed: Where all tensors of the model go.
        tied: Whether the head is the embedding, so that one on disk is passed over.
        num_layers: How many layers the configuration says.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape or format.
    """
    expected = {placement.source: placement for placement in placed}
    ignored = {name for name in checkpoint.tensors if _COMPUTED in f".{name}"}
    ignored |= {LM_HEAD} if tied else set()
    unread = checkpoint.tensors.keys() - expected.keys() - ignored
    # A GGUF file is a model alone: what it holds is computed with, by llama.cpp.
    is_folder = checkpoint.path.is_dir()
    left_out = {name for name in unread if is_folder and _is_beside(name, num_layers)}
    ignored |= left_out
    ignored |= {name for name in checkpoint.tensors if _adds_nothing(name, expected, checkpoint)}
    for text, names in (
        ("lacks", expected.keys() - checkpoint.tensors.keys()),
        ("holds unknown", checkpoint.tensors.keys() - expected.keys() - ignored),
    ):
        if names:
            listed = ", ".join(sorted(names)[:5])
            raise CheckpointError(f"{checkpoint.path} {text} tensors ({len(names)}): {listed}")
    for name, placement in expected.items():
        source = checkpoint.tensors[name]
        if source.shape != placement.shape:
            raise CheckpointError(f"{name}: expected shape {placement.shape}, got {source.shape}")
        if source.dtype not in NUMPY_DTYPES:
            raise CheckpointError(
                f"{name}: expected one of {', '.join(NUMPY_DTYPES)}, got {source.dtype}"
            )
    return tuple(sorted(left_out))


def _is_beside(name: str, num_layers: int) -> bool:
    """Whether a tensor is of no part that the model has."""
    layer = _LAYER.match(name)
    if layer is None:
        return not name.startswith(_OF_THE_MODEL)
    return int(layer[1]) >= num_layers or name.rpartition(".")[2] in _OF_CACHES


def _adds_nothing(name: str, expected: Mapping[str, Placement], checkpoint: Checkpoint) -> bool:
    """Whether a tensor is a bias of zeros that the layer does not have, as AutoGPTQ wrote them."""
    module = name.removesuffix(".bias")
    if name in expected or module == name or f"{module}.weight" not in expected:
        return False
    return not any(piece.strip(b"\0") for piece in checkpoint.tensors[name].pieces())


def is_tied_on_disk(checkpoint: Checkpoint, tied: bool) -> bool:
    """Whether the head is the embedding; `tied` is the configuration's word.

    A tied head need not be on disk; one that is there and differs is not tied.

    Source: `PreTrainedModel.tie_weights` of transformers 5.

    Raises:
        CheckpointError: the configuration says that it is not tied, and there is none.
    """
    if LM_HEAD not in checkpoint.tensors and not tied:
        raise CheckpointError(
            f"{checkpoint.path} has no {LM_HEAD}, and config.json does not tie the head to the "
            "embedding: a shard is lost, or tie_word_embeddings should be true"
        )
    if tied and {EMBEDDING, LM_HEAD} <= checkpoint.tensors.keys():
        return checkpoint.same_bytes(EMBEDDING, LM_HEAD)
    return tied
