"""The ONNX files of a device bundle, written from its safetensors files; needs no torch."""

from collections.abc import Sequence
from pathlib import Path

from submodels.manifest import ModelShape
from submodels.onnx.builder import GraphBuilder
from submodels.onnx.files import WEIGHTS_FORMATS, Graph, WeightsFormat
from submodels.onnx.layers import ReadTensor, add_decoder_stack, add_head
from submodels.onnx.model_file import INLINE_LIMIT_BYTES
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

    Float32 graphs compute what the checkpoint says. int8 and int4 round weights in blocks and
    activations to int8: they are smaller and faster, and change answers.

    Returns:
        The names of the files written.

    Raises:
        ValueError: an unknown weights format or activation.
    """
    inputs, outputs = (TensorFile(device_dir / part.value) for part in (Part.INPUT, Part.OUTPUT))
    windows = shape.sliding_windows
    stacks: list[tuple[Graph, Sequence[int | None], ReadTensor]] = [
        (Graph.INPUT, windows[:num_input_layers], inputs.read),
        (Graph.OUTPUT, windows[shape.num_layers - num_output_layers :], outputs.read),
    ]
    head = inputs.read(EMBEDDING) if shape.tied_embeddings else outputs.read(LM_HEAD)
    written: list[str] = []
    for name in weights:
        chosen = weights_format(name)
        for graph, layer_windows, read in stacks:
            if layer_windows:
                builder = GraphBuilder(graph, chosen)
                add_decoder_stack(builder, shape, layer_windows, read)
                written += builder.save(device_dir, inline_limit_bytes)
        builder = GraphBuilder(Graph.HEAD, chosen)
        add_head(builder, shape, outputs.read(FINAL_NORM), head)
        written += builder.save(device_dir, inline_limit_bytes)
    return written


def weights_format(name: str) -> WeightsFormat:
    """The weights format of this name.

    Raises:
        ValueError: there is none.
    """
    for known in WEIGHTS_FORMATS:
        if name == known:
            return known
    raise ValueError(f"weights: expected one of {', '.join(WEIGHTS_FORMATS)}, got {name!r}")
