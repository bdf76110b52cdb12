"""ONNX graphs of published EAGLE heads: layer, LM head, and EAGLE-3's fusion of three rows.

Rows `[1, T, 2 H + 1]` come in as those of a fed adapter do: embedding, feature of the position
before, and a number that is not looked at. The layer's tensors are named as those of decoder layer
0, the others as in a head's files.
"""

import numpy as np

from submodels.manifest import ModelShape
from submodels.onnx.builder import GraphBuilder
from submodels.onnx.files import LOGITS, NEW_ROWS, ROWS
from submodels.onnx.layers import Layer, add_head, add_norm, declare_stack
from submodels.onnx.matrices import Matrix, plain_matrix
from submodels.tensors.tensor_file import TensorFile
from submodels.tensors.tensor_layout import layer_name

_FEED, _FEED_BIAS = "fc.weight", "fc.bias"
_HIDDEN_NORM, _OWN_NORM, _OWN_HEAD = "hidden_norm.weight", "norm.weight", "lm_head.weight"
_INPUT_NORM = layer_name(0, "input_layernorm.weight")


def add_eagle(builder: GraphBuilder, shape: ModelShape, tensors: TensorFile) -> None:
    """EAGLE-1 and 2: a matrix over both halves, then a layer without a norm before attention."""
    hidden = shape.hidden_size
    rows = declare_stack(builder, shape, range(1), 2 * hidden + 1)
    sizes = builder.constant("fed.sizes", np.array([2 * hidden, 1], np.int64))
    builder.node("Split", [rows, sizes], ["fed.both", "fed.unused"], axis=-1)
    bias = tensors.read(_FEED_BIAS).astype(np.float32)
    builder.linear("fed.both", plain_matrix(tensors.read(_FEED)), "fed.rows", bias)
    _add_layer(builder, shape, tensors, "fed.rows", "fed.rows")


def add_eagle3(
    builder: GraphBuilder, shape: ModelShape, tensors: TensorFile, norm_before_residual: bool
) -> None:
    """EAGLE-3: attention reads both halves normed, and its layer adds to the feature."""
    hidden, eps = shape.hidden_size, shape.rms_norm_eps
    rows = declare_stack(builder, shape, range(1), 2 * hidden + 1)
    sizes = builder.constant("fed.sizes", np.array([hidden, hidden, 1], np.int64))
    parts = ["fed.embedded", "fed.previous", "fed.unused"]
    builder.node("Split", [rows, sizes], parts, axis=-1)
    add_norm(builder, parts[0], tensors.read(_INPUT_NORM), "fed.embedded.normed", eps)
    add_norm(builder, parts[1], tensors.read(_HIDDEN_NORM), "fed.previous.normed", eps)
    halves = ["fed.embedded.normed", "fed.previous.normed"]
    builder.node("Concat", halves, "fed.both", axis=-1)
    residual = halves[1] if norm_before_residual else parts[1]
    _add_layer(builder, shape, tensors, "fed.both", residual)


def add_fusion(builder: GraphBuilder, shape: ModelShape, tensors: TensorFile) -> None:
    """EAGLE-3's features: rows `[R, 3 H]` of three depths side by side to `[R, H]`."""
    builder.input(ROWS, np.float32, ("R", 3 * shape.hidden_size))
    builder.output(NEW_ROWS, np.float32, ("R", shape.hidden_size))
    builder.linear(ROWS, plain_matrix(tensors.read(_FEED)), NEW_ROWS)


def add_own_head(builder: GraphBuilder, shape: ModelShape, tensors: TensorFile) -> None:
    """EAGLE-3's norm and LM head, from rows `[R, H]` to logits of the tokens it can draft."""
    add_head(builder, shape, tensors.read(_OWN_NORM), plain_matrix(tensors.read(_OWN_HEAD)))


def add_bare_head(builder: GraphBuilder, shape: ModelShape, lm_head: Matrix) -> None:
    """An LM head over rows `[R, H]` that are behind the final norm already."""
    builder.input(ROWS, np.float32, ("R", shape.hidden_size))
    builder.output(LOGITS, np.float32, ("R", lm_head.num_rows))
    builder.linear(ROWS, lm_head, LOGITS)


def _add_layer(
    builder: GraphBuilder, shape: ModelShape, tensors: TensorFile, read: str, residual: str
) -> None:
    """The one layer: attention over `read`, added to `residual`, and the MLP behind its norm."""
    layer = Layer(builder, shape, 0, None, tensors, has_mlp=True)
    summed, update = layer.finish(residual, layer.attention(read))
    builder.output(NEW_ROWS, np.float32, (1, "T", shape.hidden_size))
    builder.node("Add", [summed, update], NEW_ROWS)
