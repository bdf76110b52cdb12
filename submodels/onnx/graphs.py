"""The ONNX files of a device bundle, written from its safetensors files; needs no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from submodels.manifest import ModelShape
from submodels.onnx.blocks import add_block_head, add_block_step
from submodels.onnx.builder import GraphBuilder
from submodels.onnx.files import WEIGHTS_FORMATS, Graph, WeightsFormat
from submodels.onnx.heads import add_bare_head
from submodels.onnx.layers import add_decoder_stack, add_head
from submodels.onnx.matrices import chosen_rows, stored_matrix
from submodels.onnx.model_file import INLINE_LIMIT_BYTES
from submodels.tensors.computed import as_computed
from submodels.tensors.tensor_file import TensorFile
from submodels.tensors.tensor_layout import EMBEDDING, FINAL_NORM, LM_HEAD, Part


def write_onnx(
    device_dir: Path,
    shape: ModelShape,
    num_input_layers: int,
    num_output_layers: int,
    weights: Sequence[str],
    inline_limit_bytes: int = INLINE_LIMIT_BYTES,
) -> list[str]:
    """Write the graphs of `onnx_files` beside the tensor files, once per weights format.

    Float32 graphs compute what the checkpoint says, and read their matrices from the tensor files.
    int8 and int4 round weights in blocks and activations to int8: they are faster, and change
    answers.

    Returns:
        The names of the files written.

    Raises:
        ValueError: an unknown weights format or activation.
    """
    inputs, outputs = (TensorFile(device_dir / part.value) for part in (Part.INPUT, Part.OUTPUT))
    first_output = shape.num_layers - num_output_layers
    stacks = [
        (Graph.INPUT, 0, shape.sliding_windows[:num_input_layers], inputs),
        (Graph.OUTPUT, first_output, shape.sliding_windows[first_output:], outputs),
    ]
    written: list[str] = []
    for name in weights:
        for graph, first, windows, tensors in stacks:
            if windows:
                builder = GraphBuilder(graph, weights_format(name), names_places=True)
                add_decoder_stack(builder, shape, windows, tensors, first_layer=first)
                written += builder.save(device_dir, inline_limit_bytes)
        builder = head_graph(device_dir, shape, name)
        written += builder.save(device_dir, inline_limit_bytes)
    return written


def head_graph(device_dir: Path, shape: ModelShape, weights: str) -> GraphBuilder:
    """The head's graph of a device bundle, to be saved there.

    Raises:
        ValueError: an unknown weights format.
    """
    norm, file, name = _head_tensors(device_dir, shape)
    builder = GraphBuilder(Graph.HEAD, weights_format(weights), names_places=True)
    add_head(builder, shape, norm, stored_matrix(file, name))
    return builder


def draft_head_graph(
    device_dir: Path, shape: ModelShape, token_ids: NDArray[np.integer[Any]], weights: str
) -> GraphBuilder:
    """The graph of a head that knows the tokens `[k]` only; it holds its weights itself.

    Raises:
        ValueError: an unknown weights format.
    """
    norm, file, name = _head_tensors(device_dir, shape)
    builder = GraphBuilder(Graph.DRAFT_HEAD, weights_format(weights))
    add_head(builder, shape, norm, chosen_rows(file.read(name), token_ids))
    return builder


def bare_head_graph(device_dir: Path, shape: ModelShape, weights: str) -> GraphBuilder:
    """The graph of the model's LM head alone, for drafting, to be saved there.

    Raises:
        ValueError: an unknown weights format.
    """
    _, file, name = _head_tensors(device_dir, shape)
    builder = GraphBuilder(Graph.DRAFT_HEAD, weights_format(weights), names_places=True)
    add_bare_head(builder, shape, stored_matrix(file, name))
    return builder


def block_head_graphs(
    device_dir: Path,
    shape: ModelShape,
    token_ids: NDArray[np.integer[Any]] | None,
    tensors: TensorFile,
    weights: str,
) -> tuple[GraphBuilder, GraphBuilder]:
    """The graphs of an adapter's head that drafts blocks of the tokens `[k]`, all where None.

    `tensors` are the adapter's.

    Raises:
        ValueError: an unknown weights format.
    """
    norm, file, name = _head_tensors(device_dir, shape)
    whole = file.read(name)
    rows = np.asarray(whole if token_ids is None else whole[token_ids], np.float32)
    head = GraphBuilder(Graph.DRAFT_HEAD, weights_format(weights))
    add_block_head(head, shape, norm, rows, tensors)
    step = GraphBuilder(Graph.DRAFT_STEP, weights_format(weights))
    add_block_step(step, shape, rows, tensors)
    return head, step


def _head_tensors(device_dir: Path, shape: ModelShape) -> tuple[NDArray[Any], TensorFile, str]:
    """The final norm's weight, and where the LM head lies."""
    inputs, outputs = (TensorFile(device_dir / part.value) for part in (Part.INPUT, Part.OUTPUT))
    norm = as_computed(outputs.read(FINAL_NORM).astype(np.float32), FINAL_NORM, shape)
    return (norm, inputs, EMBEDDING) if shape.tied_embeddings else (norm, outputs, LM_HEAD)


def weights_format(name: str) -> WeightsFormat:
    """The weights format of this name.

    Raises:
        ValueError: there is none.
    """
    for known in WEIGHTS_FORMATS:
        if name == known:
            return known
    raise ValueError(f"weights: expected one of {', '.join(WEIGHTS_FORMATS)}, got {name!r}")
