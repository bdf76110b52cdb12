"""Which tensor of a checkpoint goes into which part, under which name and with which shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from submodels.manifest import Experts, ModelShape

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
LAYER_SCALAR = "layer_scalar"
"""Of a layer, where it has one."""


class Part(Enum):
    """The three parts; the value is the safetensors file's name in its bundle."""

    INPUT = "input.safetensors"
    MIDDLE = "model.safetensors"
    OUTPUT = "output.safetensors"


@dataclass(frozen=True, slots=True)
class Placement:
    """One tensor: its name in the checkpoint, its part, its name there, and its shape."""

    source: str
    part: Part
    name: str
    shape: tuple[int, ...]


def layer_tensor_shapes(shape: ModelShape) -> Mapping[str, tuple[int, ...]]:
    """The tensors of one decoder layer, by their names after `model.layers.<i>.`.

    `shape` is that of the layer (`ModelShape.of_layer`) where layers differ. Biases come last, so
    that a bundle of a model is byte for byte what it always was.
    """
    scalar = {LAYER_SCALAR: (1,)} if shape.described.has_layer_scalar else {}
    shapes: dict[str, tuple[int, ...]] = {
        **_norm_shapes(shape),
        **_attention_shapes(shape),
        **_feed_forward_shapes(shape),
        **scalar,
    }
    return dict(sorted(shapes.items(), key=lambda named: named[0].endswith(".bias")))


def _norm_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    described = shape.described
    names = (
        *(described.before_attention, described.after_attention),
        *(described.before_mlp, described.after_mlp),
    )
    norms: dict[str, tuple[int, ...]] = {
        f"{name}.weight": (shape.hidden_size,) for name in names if name
    }
    if shape.qk_norm:
        is_wide = described.qk_norm_over == "width"
        for name, num_heads in (("q", shape.num_attention_heads), ("k", shape.num_key_value_heads)):
            width = shape.head_dim * (num_heads if is_wide else 1)
            norms[f"self_attn.{name}_norm.weight"] = (width,)
    return norms


def _attention_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    hidden = shape.hidden_size
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    linears = {
        "self_attn.q_proj": (queries, hidden, shape.qkv_bias),
        "self_attn.k_proj": (keys, hidden, shape.qkv_bias),
        "self_attn.v_proj": (keys, hidden, shape.qkv_bias),
        "self_attn.o_proj": (hidden, queries, shape.output_bias),
    }
    if shape.described.keys_are_values:
        del linears["self_attn.v_proj"]
    sinks = {"self_attn.sinks": (shape.num_attention_heads,)} if shape.described.has_sinks else {}
    return {**_linear_shapes(linears), **sinks}


def _feed_forward_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    hidden, experts = shape.hidden_size, shape.described.experts
    if experts is None:
        return _gated_shapes(shape)
    if experts.before:
        return {**_gated_shapes(shape), **_beside_shapes(experts, hidden)}
    if experts.are_stacked:
        return _stacked_shapes(experts, hidden)
    linears = {experts.router: (experts.num_experts, hidden, False)}
    for index in range(experts.num_experts):
        for name in (experts.gate, experts.up):
            linears[name.format(index)] = (experts.inner_size, hidden, False)
        linears[experts.down.format(index)] = (hidden, experts.inner_size, False)
    return _linear_shapes(linears)


def _gated_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    hidden, inner, has_bias = shape.hidden_size, shape.intermediate_size, shape.mlp_bias
    return _linear_shapes(
        {
            "mlp.gate_proj": (inner, hidden, has_bias),
            "mlp.up_proj": (inner, hidden, has_bias),
            "mlp.down_proj": (hidden, inner, has_bias),
        }
    )


def _beside_shapes(experts: Experts, hidden: int) -> dict[str, tuple[int, ...]]:
    num_experts, inner = experts.num_experts, experts.inner_size
    norms = (experts.before, experts.after, experts.after_gated)
    return {
        f"{experts.router}.weight": (num_experts, hidden),
        experts.router_scale: (hidden,),
        experts.expert_scale: (num_experts,),
        experts.gate: (num_experts, 2 * inner, hidden),
        experts.down: (num_experts, hidden, inner),
        **{f"{name}.weight": (hidden,) for name in norms},
    }


def _stacked_shapes(experts: Experts, hidden: int) -> dict[str, tuple[int, ...]]:
    num_experts, inner = experts.num_experts, experts.inner_size
    return {
        f"{experts.router}.weight": (num_experts, hidden),
        experts.gate: (num_experts, hidden, 2 * inner),
        experts.down: (num_experts, inner, hidden),
        f"{experts.router}.bias": (num_experts,),
        f"{experts.gate}_bias": (num_experts, 2 * inner),
        f"{experts.down}_bias": (num_experts, hidden),
    }


def _linear_shapes(linears: Mapping[str, tuple[int, int, bool]]) -> dict[str, tuple[int, ...]]:
    """Of linear layers: outputs, inputs, and whether there is a bias."""
    weights: dict[str, tuple[int, ...]] = {
        f"{name}.weight": (rows, columns) for name, (rows, columns, _) in linears.items()
    }
    biases = {f"{name}.bias": (rows,) for name, (rows, _, has_bias) in linears.items() if has_bias}
    return {**weights, **biases}


def layer_name(index: int, suffix: str) -> str:
    """The Hugging Face name of a decoder layer's tensor."""
    return f"model.layers.{index}.{suffix}"


def placements(
    shape: ModelShape, num_input_layers: int, num_output_layers: int
) -> tuple[Placement, ...]:
    """Where every tensor of the model goes; layers are renumbered from 0 within each part.

    Tied models have no head tensor: the output submodel uses the embedding of the input part.
    """
    embedding_shape = (shape.vocab_size, shape.hidden_size)
    placed = [Placement(EMBEDDING, Part.INPUT, EMBEDDING, embedding_shape)]
    first_output_layer = shape.num_layers - num_output_layers
    for index in range(shape.num_layers):
        part, first = _part_of_layer(index, num_input_layers, first_output_layer)
        placed += [
            Placement(layer_name(index, suffix), part, layer_name(index - first, suffix), size)
            for suffix, size in layer_tensor_shapes(shape.of_layer(index)).items()
        ]
    placed.append(Placement(FINAL_NORM, Part.OUTPUT, FINAL_NORM, (shape.hidden_size,)))
    if not shape.tied_embeddings:
        placed.append(Placement(LM_HEAD, Part.OUTPUT, LM_HEAD, embedding_shape))
    return tuple(placed)


def _part_of_layer(index: int, num_input_layers: int, first_output_layer: int) -> tuple[Part, int]:
    """The part that holds a layer, and the first layer of that part."""
    if index < num_input_layers:
        return Part.INPUT, 0
    if index < first_output_layer:
        return Part.MIDDLE, num_input_layers
    return Part.OUTPUT, first_output_layer
