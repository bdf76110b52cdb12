"""ONNX nodes of pre-norm decoder layers (Llama, Mistral, Qwen2, Qwen3) and of the head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from submodels.manifest import ModelShape
from submodels.onnx.builder import MICROSOFT, GraphBuilder
from submodels.onnx.files import (
    COS,
    LAST_POSITION,
    LOGITS,
    NEW_ROWS,
    NUM_POSITIONS,
    ROWS,
    SIN,
    past_names,
    present_names,
)
from submodels.onnx.matrices import (
    Float32,
    Matrix,
    pad_heads,
    padded_head_dim,
    stacked,
    stored_heads,
    stored_matrix,
)
from submodels.tensors.tensor_file import TensorFile
from submodels.tensors.tensor_layout import layer_name


@dataclass(frozen=True, slots=True)
class Feed:
    """What makes rows of shallow rows and deep rows of the position before.

    The norms' weights and `absent`, which stands for a deep row that is not known, are `[H]`; the
    matrix `[H, 2 H]` has the shallow half first.
    """

    norm_shallow: NDArray[Any]
    norm_deep: NDArray[Any]
    absent: NDArray[Any]
    matrix: Matrix


def add_decoder_stack(
    builder: GraphBuilder,
    shape: ModelShape,
    windows: Sequence[int | None],
    tensors: TensorFile,
    *,
    has_mlp: bool = True,
    closing_norm: NDArray[Any] | None = None,
    feed: Feed | None = None,
) -> None:
    """Decoder layers `0..len(windows)` of `tensors`, from rows to rows.

    Without `has_mlp` a layer is its attention half; a `closing_norm` `[H]` ends the stack. With
    `feed` the rows that come in are `[1, T, 2 H + 1]` and become those of the layers first.

    Raises:
        ValueError: an activation other than SiLU.
    """
    if shape.hidden_act != "silu":
        raise ValueError(f"hidden_act: expected silu, got {shape.hidden_act!r}")
    rows_shape = (1, "T", shape.hidden_size)
    width = shape.hidden_size if feed is None else 2 * shape.hidden_size + 1
    residual = declare_stack(builder, shape, len(windows), width)
    if feed is not None:
        residual = _add_feed(builder, shape, feed, residual)
    update = ""
    for index, window in enumerate(windows):
        layer = Layer(builder, shape, index, window, tensors, has_mlp)
        residual, update = layer.add(residual, update)
    builder.output(NEW_ROWS, np.float32, rows_shape)
    if closing_norm is None:
        builder.node("Add", [residual, update], NEW_ROWS)
        return
    summed = builder.node("Add", [residual, update], "unclosed")
    add_norm(builder, summed, closing_norm, NEW_ROWS, shape.rms_norm_eps)


def declare_stack(builder: GraphBuilder, shape: ModelShape, num_layers: int, width: int) -> str:
    """What a stack of layers reads beside its weights, and the caches it writes.

    Returns:
        The name of the rows `[1, T, width]`.
    """
    rows = builder.input(ROWS, np.float32, (1, "T", width))
    head_dim = padded_head_dim(shape.head_dim)
    cache_shape = (1, shape.num_key_value_heads, "capacity", head_dim)
    for index in range(num_layers):
        for past, present in zip(past_names(index), present_names(index), strict=True):
            builder.input(past, np.float32, cache_shape)
            builder.output(present, np.float32, cache_shape)
    builder.input(LAST_POSITION, np.int32, (1,))
    builder.input(NUM_POSITIONS, np.int32, ())
    builder.input(COS, np.float32, ("num_angles", head_dim // 2))
    builder.input(SIN, np.float32, ("num_angles", head_dim // 2))
    return rows


def add_head(builder: GraphBuilder, shape: ModelShape, norm: NDArray[Any], weight: Matrix) -> None:
    """Final norm and LM head, from any number of rows to logits."""
    builder.input(ROWS, np.float32, ("R", shape.hidden_size))
    builder.output(LOGITS, np.float32, ("R", weight.num_rows))
    normed = add_norm(builder, ROWS, norm, "normed", shape.rms_norm_eps)
    builder.linear(normed, weight, LOGITS)


def _add_feed(builder: GraphBuilder, shape: ModelShape, feed: Feed, rows: str) -> str:
    """Rows `[1, T, H]` that enter the layers, of fed ones."""
    hidden, eps = shape.hidden_size, shape.rms_norm_eps
    sizes = builder.constant("fed.sizes", np.array([hidden, hidden, 1], np.int64))
    parts = ["fed.shallow", "fed.previous", "fed.is_known"]
    shallow, previous, is_known = parts
    builder.node("Split", [rows, sizes], parts, axis=-1)
    add_norm(builder, shallow, feed.norm_shallow, "fed.shallow.normed", eps)
    add_norm(builder, previous, feed.norm_deep, "fed.previous.normed", eps)
    absent = builder.constant("fed.absent", feed.absent.astype(np.float32))
    builder.node("Cast", [is_known], "fed.is_known.boolean", to=TensorProto.BOOL)
    builder.node("Where", ["fed.is_known.boolean", "fed.previous.normed", absent], "fed.feature")
    builder.node("Concat", ["fed.shallow.normed", "fed.feature"], "fed.both", axis=-1)
    builder.linear("fed.both", feed.matrix, "fed.update")
    return builder.node("Add", [shallow, "fed.update"], "fed.rows")


def add_norm(
    builder: GraphBuilder, rows: str, weight: NDArray[Any], normed: str, epsilon: float
) -> str:
    """Root mean square norm over the last axis."""
    scale = builder.constant(f"{normed}.weight", weight.astype(np.float32))
    operator = "SimplifiedLayerNormalization"
    return builder.node(operator, [rows, scale], normed, axis=-1, epsilon=epsilon)


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. Values and weights it adds are named `<index>.<what>`."""

    builder: GraphBuilder
    shape: ModelShape
    index: int
    window: int | None
    tensors: TensorFile
    has_mlp: bool

    def add(self, residual: str, update: str) -> tuple[str, str]:
        """The new residual stream and what is still to be added to it (at first nothing)."""
        normed, residual = self._add_and_norm(residual, update, "input_layernorm")
        return self.finish(residual, self.attention(normed))

    def finish(self, residual: str, attended: str) -> tuple[str, str]:
        """The same two behind attention's update: the MLP, where there is one."""
        if not self.has_mlp:
            return residual, attended
        normed, residual = self._add_and_norm(residual, attended, "post_attention_layernorm")
        return residual, self._mlp(normed)

    def _add_and_norm(self, residual: str, update: str, norm: str) -> tuple[str, str]:
        weight = self.builder.constant(
            self._name(f"{norm}.weight"), self._tensor(f"{norm}.weight").astype(np.float32)
        )
        normed, epsilon = self._name(norm), self.shape.rms_norm_eps
        if not update:
            self.builder.node(
                "SimplifiedLayerNormalization", [residual, weight], normed, axis=-1, epsilon=epsilon
            )
            return normed, residual
        new_residual = self._name(f"{norm}.residual")
        self.builder.node(
            "SkipSimplifiedLayerNormalization",
            [residual, update, weight],
            [normed, "", "", new_residual],
            MICROSOFT,
            epsilon=epsilon,
        )
        return normed, new_residual

    def attention(self, normed: str) -> str:
        """What attention over rows `[1, T, ...]`, as wide as its matrices, adds to the stream."""
        shape = self.shape
        projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        matrix = stacked(
            *(
                stored_heads(self.tensors, self._stored(f"{name}.weight"), shape.head_dim, axis=0)
                for name in projections
            )
        )
        bias = None
        if shape.qkv_bias:
            parts = [pad_heads(self._tensor(f"{p}.bias"), shape.head_dim) for p in projections]
            bias = np.concatenate(parts)
        qkv = self.builder.linear(normed, matrix, self._name("qkv"), bias)
        queries, keys, values = self._norm_heads(qkv) if shape.qk_norm else (qkv, "", "")
        attended = self._name("attended")
        self.builder.node(
            "GroupQueryAttention",
            [
                *(queries, keys, values),
                *past_names(self.index),
                *(LAST_POSITION, NUM_POSITIONS, COS, SIN),
            ],
            [attended, *present_names(self.index)],
            MICROSOFT,
            num_heads=shape.num_attention_heads,
            kv_num_heads=shape.num_key_value_heads,
            do_rotary=1,
            scale=1 / math.sqrt(shape.head_dim),
            local_window_size=-1 if self.window is None else self.window,
        )
        output = self._stored("self_attn.o_proj.weight")
        weight = stored_heads(self.tensors, output, shape.head_dim, axis=1)
        return self._linear(attended, weight, "self_attn.o_proj", shape.output_bias)

    def _norm_heads(self, qkv: str) -> tuple[str, str, str]:
        """Queries and keys normalised per head (Qwen3), values as they are."""
        head_dim = padded_head_dim(self.shape.head_dim)
        counts = {"q": self.shape.num_attention_heads, "k": self.shape.num_key_value_heads}
        sizes = [n * head_dim for n in (counts["q"], counts["k"], counts["k"])]
        names = [self._name(what) for what in "qkv"]
        lengths = self.builder.constant(self._name("qkv.sizes"), np.array(sizes, np.int64))
        self.builder.node("Split", [qkv, lengths], names, axis=-1)
        queries, keys = (
            self._norm_one(name, f"self_attn.{what}_norm.weight", counts[what])
            for name, what in zip(names, "qk", strict=False)
        )
        return queries, keys, names[2]

    def _norm_one(self, value: str, weight_name: str, num_heads: int) -> str:
        head_dim = self.shape.head_dim
        # The mean runs over the padding zeros too and is smaller by this factor.
        part = head_dim / padded_head_dim(head_dim)
        weight = pad_heads(self._tensor(weight_name), head_dim) * np.float32(math.sqrt(part))
        builder = self.builder
        heads = builder.constant(f"{value}.heads", np.array([0, 0, num_heads, -1], np.int64))
        flat = builder.constant(f"{value}.flat", np.array([0, 0, -1], np.int64))
        builder.node("Reshape", [value, heads], f"{value}.by_head")
        builder.node(
            "SimplifiedLayerNormalization",
            [f"{value}.by_head", builder.constant(f"{value}.weight", weight)],
            f"{value}.by_head.normed",
            axis=-1,
            epsilon=self.shape.rms_norm_eps * part,
        )
        return builder.node("Reshape", [f"{value}.by_head.normed", flat], f"{value}.normed")

    def _mlp(self, normed: str) -> str:
        builder, name = self.builder, self._name
        gate_up = stacked(
            stored_matrix(self.tensors, self._stored("mlp.gate_proj.weight")),
            stored_matrix(self.tensors, self._stored("mlp.up_proj.weight")),
        )
        bias = None
        if self.shape.mlp_bias:
            parts = [self._tensor("mlp.gate_proj.bias"), self._tensor("mlp.up_proj.bias")]
            bias = np.concatenate(parts).astype(np.float32)
        builder.linear(normed, gate_up, name("gate_up"), bias)
        builder.node("Split", [name("gate_up")], [name("gate"), name("up")], axis=-1, num_outputs=2)
        # x * sigmoid(alpha x): SiLU, as alpha is 1.
        builder.node("QuickGelu", [name("gate")], name("activated"), MICROSOFT, alpha=1.0)
        builder.node("Mul", [name("activated"), name("up")], name("inner"))
        down = stored_matrix(self.tensors, self._stored("mlp.down_proj.weight"))
        return self._linear(name("inner"), down, "mlp.down_proj", self.shape.mlp_bias)

    def _linear(self, x: str, matrix: Matrix, name: str, has_bias: bool) -> str:
        bias: Float32 | None = None
        if has_bias:
            bias = self._tensor(f"{name}.bias").astype(np.float32)
        return self.builder.linear(x, matrix, self._name(name), bias)

    def _tensor(self, suffix: str) -> NDArray[Any]:
        return self.tensors.read(self._stored(suffix))

    def _stored(self, suffix: str) -> str:
        return layer_name(self.index, suffix)

    def _name(self, what: str) -> str:
        return f"{self.index}.{what}"
