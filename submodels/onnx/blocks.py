"""ONNX graphs of the head that drafts blocks: one for all places at once, one for a place.

What a token changes at the place behind it goes through a row of a few numbers, so its matrix and
the head's are one, made here; a place costs the product of that `[k, S]` instead of the head.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from submodels.manifest import ModelShape
from submodels.onnx.builder import MICROSOFT, GraphBuilder
from submodels.onnx.files import BEFORE, EMBEDDED, INNER, LOGITS, NEW_STATE, ROWS, STATE
from submodels.onnx.layers import add_norm
from submodels.onnx.matrices import plain_matrix
from submodels.tensors.tensor_file import TensorFile

_NORM_ROW, _NORM_TOKEN = "sequel.norm_row.weight", "sequel.norm_token.weight"
_INNER, _TOKEN, _STATE = "sequel.inner.weight", "sequel.token.weight", "sequel.state.weight"
_SQUEEZE, _OUT = "sequel.squeeze.weight", "sequel.out.weight"


def add_block_head(
    builder: GraphBuilder,
    shape: ModelShape,
    norm: NDArray[Any],
    lm_head: NDArray[Any],
    tensors: TensorFile,
) -> None:
    """Rows `[R, H]` of all places to logits of the tokens in `lm_head` `[k, H]`, and what the
    steps read of them."""
    inner = tensors.read(_INNER)
    builder.input(ROWS, np.float32, ("R", shape.hidden_size))
    builder.output(LOGITS, np.float32, ("R", len(lm_head)))
    builder.output(INNER, np.float32, ("R", len(inner)))
    final = add_norm(builder, ROWS, norm, "final", shape.rms_norm_eps)
    builder.linear(final, plain_matrix(lm_head), LOGITS)
    normed = add_norm(builder, final, tensors.read(_NORM_ROW), "final.normed", shape.rms_norm_eps)
    builder.linear(normed, plain_matrix(inner), INNER)


def add_block_step(
    builder: GraphBuilder, shape: ModelShape, lm_head: NDArray[Any], tensors: TensorFile
) -> None:
    """The logits of one place, behind the token that was drafted at the one before."""
    token, state = tensors.read(_TOKEN), tensors.read(_STATE)
    squeeze, out = tensors.read(_SQUEEZE), tensors.read(_OUT)
    width, rank, num_tokens = len(token), len(squeeze), len(lm_head)
    builder.input(BEFORE, np.float32, (1, num_tokens))
    builder.input(INNER, np.float32, (1, width))
    builder.input(EMBEDDED, np.float32, (1, shape.hidden_size))
    builder.input(STATE, np.float32, (1, rank))
    builder.output(LOGITS, np.float32, (1, num_tokens))
    builder.output(NEW_STATE, np.float32, (1, rank))
    normed = add_norm(builder, EMBEDDED, tensors.read(_NORM_TOKEN), "token", shape.rms_norm_eps)
    builder.linear(normed, plain_matrix(token), "of_token")
    builder.linear(STATE, plain_matrix(state), "of_state")
    builder.node("Add", [INNER, "of_token"], "with_token")
    builder.node("Add", ["with_token", "of_state"], "summed")
    # x * sigmoid(alpha x): SiLU, as alpha is 1.
    builder.node("QuickGelu", ["summed"], "activated", MICROSOFT, alpha=1.0)
    builder.linear("activated", plain_matrix(squeeze), NEW_STATE)
    change = np.asarray(lm_head, np.float32) @ np.asarray(out, np.float32)
    builder.linear(NEW_STATE, plain_matrix(change), "change")
    builder.node("Add", [BEFORE, "change"], LOGITS)
