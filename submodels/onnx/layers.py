"""ONNX nodes of decoder layers, as a shape and its description say, and of the head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from submodels.manifest import ModelShape
from submodels.onnx.builder import MICROSOFT, GraphBuilder
from submodels.onnx.files import (
    LAST_POSITION,
    LOGITS,
    NEW_ROWS,
    NUM_POSITIONS,
    ROWS,
    angle_names,
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
from submodels.tensors.computed import as_computed, head_order
from submodels.tensors.tensor_file import TensorFile
from submodels.tensors.tensor_layout import LAYER_SCALAR, layer_name


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
    first_layer: int = 0,
    has_mlp: bool = True,
    closing_norm: NDArray[Any] | None = None,
    feed: Feed | None = None,
) -> None:
    """Decoder layers `0..len(windows)` of `tensors`, from rows to rows.

    `first_layer` is the first of them in the whole model: by its number there a layer has its heads
    and its rotary embedding. Without `has_mlp` a layer is its attention half; a `closing_norm`
    `[H]` ends the stack. With `feed` the rows that come in are `[1, T, 2 H + 1]` and become those
    of the layers first.

    Raises:
        ValueError: an activation that has no operator here, or experts.
    """
    if shape.hidden_act not in ("silu", "gelu_pytorch_tanh"):
        raise ValueError(f"hidden_act: expected silu, got {shape.hidden_act!r}")
    if shape.described.experts is not None or shape.described.has_sinks:
        raise ValueError("layers with experts or attention sinks cannot be written as ONNX")
    rows_shape = (1, "T", shape.hidden_size)
    width = shape.hidden_size if feed is None else 2 * shape.hidden_size + 1
    layers = range(first_layer, first_layer + len(windows))
    residual = declare_stack(builder, shape, layers, width)
    if feed is not None:
        residual = _add_feed(builder, shape, feed, residual)
    update = ""
    for index, (window, number) in enumerate(zip(windows, layers, strict=True)):
        rope = shape.rope_index(number)
        layer = Layer(builder, shape.of_layer(number), index, window, tensors, has_mlp, rope)
        residual, update = layer.add(residual, update)
    builder.output(NEW_ROWS, np.float32, rows_shape)
    last = NEW_ROWS if closing_norm is None else "unclosed"
    if update:
        builder.node("Add", [residual, update], last)
    else:
        builder.node("Identity", [residual], last)
    if closing_norm is not None:
        add_norm(builder, last, closing_norm, NEW_ROWS, shape.rms_norm_eps)


def declare_stack(builder: GraphBuilder, shape: ModelShape, layers: range, width: int) -> str:
    """What layers of the whole model read beside their weights, and the caches they write.

    Returns:
        The name of the rows `[1, T, width]`.
    """
    rows = builder.input(ROWS, np.float32, (1, "T", width))
    widths: dict[int, int] = {}
    for index, layer in enumerate(layers):
        heads, rope = shape.heads_of(layer), shape.rope_index(layer)
        head_dim = padded_head_dim(heads.head_dim)
        cache_shape = (1, heads.num_key_value_heads, "capacity", head_dim)
        for past, present in zip(past_names(index), present_names(index), strict=True):
            builder.input(past, np.float32, cache_shape)
            builder.output(present, np.float32, cache_shape)
        if shape.ropes[rope].inv_freq:
            widths[rope] = head_dim // 2
    builder.input(LAST_POSITION, np.int32, (1,))
    builder.input(NUM_POSITIONS, np.int32, ())
    for rope, num_angles in widths.items():
        for name in angle_names(rope):
            builder.input(name, np.float32, ("num_angles", num_angles))
    return rows


def add_head(builder: GraphBuilder, shape: ModelShape, norm: NDArray[Any], weight: Matrix) -> None:
    """Final norm and LM head, from any number of rows to logits."""
    builder.input(ROWS, np.float32, ("R", shape.hidden_size))
    builder.output(LOGITS, np.float32, ("R", weight.num_rows))
    normed = add_norm(builder, ROWS, norm, "normed", shape.rms_norm_eps, shape.described.norm)
    scale, cap = shape.described.logit_scale, shape.described.logit_softcap
    if scale == 1 and cap is None:
        builder.linear(normed, weight, LOGITS)
        return
    builder.linear(normed, weight, "logits.plain")
    if cap is None:
        _multiplied(builder, "logits.plain", scale, LOGITS)
        return
    builder.node(
        "Tanh", [_multiplied(builder, "logits.plain", scale / cap, "logits.small")], "tanh"
    )
    _multiplied(builder, "tanh", cap, LOGITS)


def _multiplied(builder: GraphBuilder, value: str, factor: float, product: str) -> str:
    constant = builder.constant(f"{product}.factor", np.array(factor, np.float32))
    return builder.node("Mul", [value, constant], product)


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
    builder: GraphBuilder,
    rows: str,
    weight: NDArray[Any],
    normed: str,
    epsilon: float,
    kind: Literal["rms", "layer"] = "rms",
) -> str:
    """Norm over the last axis, by root mean square or by mean and deviation."""
    scale = builder.constant(f"{normed}.weight", weight.astype(np.float32))
    operator = "SimplifiedLayerNormalization" if kind == "rms" else "LayerNormalization"
    return builder.node(operator, [rows, scale], normed, axis=-1, epsilon=epsilon)


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. Values and weights it adds are named `<index>.<what>`.

    `shape` is that of the layer (`ModelShape.of_layer`).
    """

    builder: GraphBuilder
    shape: ModelShape
    index: int
    window: int | None
    tensors: TensorFile
    has_mlp: bool
    rope: int = 0

    def add(self, residual: str, update: str) -> tuple[str, str]:
        """The new residual stream and what is still to be added to it (at first nothing)."""
        described = self.shape.described
        normed, residual = self._add_and_norm(residual, update, described.before_attention)
        attended = self.attention(normed)
        if described.is_parallel and self.has_mlp:
            both = self.builder.node("Add", [attended, self._mlp(normed)], self._name("both"))
            return residual, self._ready(both, "")
        residual, update = self.finish(residual, self._ready(attended, described.after_attention))
        if not described.has_layer_scalar:
            return residual, update
        rows = self.builder.node("Add", [residual, update], self._name("unscaled"))
        scalar = self._tensor(LAYER_SCALAR).astype(np.float32)
        scalar_name = self.builder.constant(self._name(LAYER_SCALAR), scalar)
        return self.builder.node("Mul", [rows, scalar_name], self._name("scaled")), ""

    def finish(self, residual: str, attended: str) -> tuple[str, str]:
        """The same two behind attention's update: the MLP, where there is one."""
        if not self.has_mlp:
            return residual, attended
        described = self.shape.described
        normed, residual = self._add_and_norm(residual, attended, described.before_mlp)
        return residual, self._ready(self._mlp(normed), described.after_mlp)

    def _ready(self, update: str, norm: str) -> str:
        """An update as it is added to the stream: normed and multiplied where the family does."""
        if norm:
            update = self._norm(update, norm)
        scale = self.shape.described.residual_scale
        return (
            update if scale == 1 else _multiplied(self.builder, update, scale, f"{update}.scaled")
        )

    def _norm(self, rows: str, norm: str) -> str:
        kind, epsilon = self.shape.described.norm, self.shape.rms_norm_eps
        weight = self._tensor(f"{norm}.weight")
        return add_norm(self.builder, rows, weight, self._name(norm), epsilon, kind)

    def _add_and_norm(self, residual: str, update: str, norm: str) -> tuple[str, str]:
        """Rows normed behind an update, where there is a norm, and the stream they came from."""
        if update and norm and self.shape.described.norm == "rms":
            return self._add_and_norm_at_once(residual, update, norm)
        if update:
            summed = self._name(f"{norm or update}.residual")
            residual = self.builder.node("Add", [residual, update], summed)
        return self._norm(residual, norm) if norm else residual, residual

    def _add_and_norm_at_once(self, residual: str, update: str, norm: str) -> tuple[str, str]:
        weight = self.builder.constant(
            self._name(f"{norm}.weight"), self._tensor(f"{norm}.weight").astype(np.float32)
        )
        normed, new_residual = self._name(norm), self._name(f"{norm}.residual")
        self.builder.node(
            "SkipSimplifiedLayerNormalization",
            [residual, update, weight],
            [normed, "", "", new_residual],
            MICROSOFT,
            epsilon=self.shape.rms_norm_eps,
        )
        return normed, new_residual

    def attention(self, normed: str) -> str:
        """What attention over rows `[1, T, ...]`, as wide as its matrices, adds to the stream."""
        shape, described = self.shape, self.shape.described
        queries, keys, values = self._projected(normed)
        turns = bool(shape.ropes[self.rope].inv_freq)
        angles = angle_names(self.rope) if turns else ("", "")
        attended = self._name("attended")
        self.builder.node(
            "GroupQueryAttention",
            [
                *(queries, keys, values),
                *past_names(self.index),
                *(LAST_POSITION, NUM_POSITIONS),
                *angles,
            ],
            [attended, *present_names(self.index)],
            MICROSOFT,
            num_heads=shape.num_attention_heads,
            kv_num_heads=shape.num_key_value_heads,
            do_rotary=int(turns),
            scale=shape.attention_scale,
            local_window_size=-1 if self.window is None else self.window,
            **(
                {}
                if described.attention_softcap is None
                else {"softcap": described.attention_softcap}
            ),
        )
        output = self._stored("self_attn.o_proj.weight")
        weight = stored_heads(self.tensors, output, shape.head_dim, axis=1)
        return self._linear(attended, weight, "self_attn.o_proj", shape.output_bias)

    def _projected(self, normed: str) -> tuple[str, str, str]:
        """Queries, keys and values, or all in the first, as the operator takes both."""
        shape, order = self.shape, head_order(self.shape)
        which = "qk" if shape.described.keys_are_values else "qkv"
        projections = [f"self_attn.{name}_proj" for name in which]
        orders = (order, order, None)[: len(which)]
        matrix = stacked(
            *(
                stored_heads(
                    self.tensors, self._stored(f"{name}.weight"), shape.head_dim, 0, its_order
                )
                for name, its_order in zip(projections, orders, strict=True)
            )
        )
        bias = None
        if shape.qkv_bias:
            parts = [pad_heads(self._tensor(f"{p}.bias"), shape.head_dim) for p in projections]
            bias = np.concatenate(parts)
        qkv = self.builder.linear(normed, matrix, self._name("qkv"), bias)
        plain = not (shape.qk_norm or shape.described.has_value_norm or which == "qk")
        return (qkv, "", "") if plain else self._norm_heads(qkv, which)

    def _norm_heads(self, qkv: str, which: str) -> tuple[str, str, str]:
        """Queries, keys and values, each head by itself or all together, where they are normed.

        `which` of them the rows `qkv` hold; missing values are the keys before their norm.
        """
        shape = self.shape
        head_dim = padded_head_dim(shape.head_dim)
        counts = {"q": shape.num_attention_heads} | dict.fromkeys("kv", shape.num_key_value_heads)
        names = {what: self._name(what) for what in which}
        sizes = np.array([counts[what] * head_dim for what in which], np.int64)
        lengths = self.builder.constant(self._name("qkv.sizes"), sizes)
        self.builder.node("Split", [qkv, lengths], list(names.values()), axis=-1)
        queries, keys, values = names["q"], names["k"], names.get("v", names["k"])
        if shape.described.has_value_norm:
            ones, normed = np.ones(shape.head_dim, np.float32), self._name("v.normed")
            values = self._norm_one(values, ones, counts["v"], normed)
        if shape.qk_norm:
            queries, keys = (
                self._norm_one(
                    names[what],
                    self._tensor(f"self_attn.{what}_norm.weight"),
                    counts[what],
                    f"{names[what]}.normed",
                )
                for what in "qk"
            )
        return queries, keys, values

    def _norm_one(self, value: str, gain: NDArray[Any], num_heads: int, normed: str) -> str:
        head_dim = self.shape.head_dim
        # The mean runs over the padding zeros too and is smaller by this factor.
        part = head_dim / padded_head_dim(head_dim)
        weight = pad_heads(gain, head_dim) * np.float32(math.sqrt(part))
        builder = self.builder
        if self.shape.described.qk_norm_over == "width":
            epsilon = self.shape.rms_norm_eps * part
            return add_norm(builder, value, weight, normed, epsilon)
        name = normed.removesuffix(".normed")
        heads = builder.constant(f"{name}.heads", np.array([0, 0, num_heads, -1], np.int64))
        flat = builder.constant(f"{name}.flat", np.array([0, 0, -1], np.int64))
        builder.node("Reshape", [value, heads], f"{name}.by_head")
        builder.node(
            "SimplifiedLayerNormalization",
            [f"{name}.by_head", builder.constant(f"{name}.weight", weight)],
            f"{name}.by_head.normed",
            axis=-1,
            epsilon=self.shape.rms_norm_eps * part,
        )
        return builder.node("Reshape", [f"{name}.by_head.normed", flat], normed)

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
        if self.shape.hidden_act == "silu":
            # x * sigmoid(alpha x): SiLU, as alpha is 1.
            builder.node("QuickGelu", [name("gate")], name("activated"), MICROSOFT, alpha=1.0)
        else:
            builder.node("Gelu", [name("gate")], name("activated"), approximate="tanh")
        builder.node("Mul", [name("activated"), name("up")], name("inner"))
        down = stored_matrix(self.tensors, self._stored("mlp.down_proj.weight"))
        return self._linear(name("inner"), down, "mlp.down_proj", self.shape.mlp_bias)

    def _linear(self, x: str, matrix: Matrix, name: str, has_bias: bool) -> str:
        bias: Float32 | None = None
        if has_bias:
            bias = self._tensor(f"{name}.bias").astype(np.float32)
        return self.builder.linear(x, matrix, self._name(name), bias)

    def _tensor(self, suffix: str) -> NDArray[Any]:
        stored = self.tensors.read(self._stored(suffix))
        if self.shape.described.norm_offset:
            stored = stored.astype(np.float32)
        computed: NDArray[Any] = as_computed(stored, suffix, self.shape)
        return computed

    def _stored(self, suffix: str) -> str:
        return layer_name(self.index, suffix)

    def _name(self, what: str) -> str:
        return f"{self.index}.{what}"
