"""Which models drafters of this room know: those whose layers, embedding and head are Llama's."""

from submodels.manifest import LLAMA, ModelShape


def why_not_known(shape: ModelShape) -> str | None:
    """Why adapters and heads cannot draft for a model of this shape; None: they can."""
    if shape.described == LLAMA:
        return None
    return (
        f"adapters and heads do not know models of type {shape.model_type!r} yet, whose layers are "
        "not like Llama's; expected a llama, mistral, qwen2 or qwen3"
    )
