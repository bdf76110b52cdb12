"""`hat.json`: what a bundle holds, in words a program can check. Needs no torch."""

from collections.abc import Iterable
from typing import Literal

import msgspec

FORMAT_VERSION = 2

Role = Literal["device", "cloud"]
DtypeName = Literal["float32", "float16", "bfloat16"]


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary embedding as numbers: `inv_freq` `[head_dim / 2]`, and the factor on cos and sin.

    With fewer frequencies the rest of a head is not turned; with none nothing is.
    """

    inv_freq: tuple[float, ...]
    attention_scaling: float = 1.0


class Heads(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Heads of keys and values in some layers, where others have others."""

    head_dim: int
    """Of query heads too."""
    num_key_value_heads: int
    keys_are_values: bool = False
    """No matrix makes values: they are what that of keys gives, before its norm."""


class Experts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A layer's feed-forward half as experts, of which a router chooses some for each row."""

    num_experts: int
    num_chosen: int
    inner_size: int
    """Of one expert, between its up and down matrix."""
    router: str
    """Name of the router's matrix `[num_experts, hidden]` in the layer, without `.weight`."""
    gate: str
    """Names of one expert's matrices; `{}` stands for its number."""
    up: str
    down: str
    are_renormalised: bool = True
    """Softmax over all experts; the chosen ones' shares are divided by their sum."""
    are_stacked: bool = False
    """All experts' matrices are one, `[num_experts, inputs, outputs]`, with biases; that named
    `gate` has gate and up in turn, and `up` names none. The router has a bias too."""
    has_halves: bool = False
    """Of stacked ones: matrices are `[num_experts, outputs, inputs]`, gates lie above their
    factors, and there are no biases, nor in the router."""
    before: str = ""
    """With a name, experts run beside a gated half, whose matrices are `mlp`'s: they read the
    stream itself, behind this norm."""
    after: str = ""
    """Behind experts that run beside a gated half, a norm of what they give."""
    after_gated: str = ""
    """And one of what the gated half gives; both are added."""
    router_scale: str = ""
    """With a name, the router reads the stream normed without a gain, times this tensor `[hidden]`
    over the root of the hidden size."""
    expert_scale: str = ""
    """With a name, a tensor `[num_experts]` that shares are multiplied by in the end."""
    swiglu_limit: float | None = None
    """Gates are held below it, and their factors, to which 1 is added, on both sides of zero."""
    swiglu_alpha: float = 1.0
    """With a limit: a gate `g` becomes `g * sigmoid(alpha * g)`."""


class Description(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What sets the layers of a model apart from Llama's; the defaults are Llama's.

    Norms are named as their tensors in the layer, without `.weight`; an empty name: there is none.
    """

    before_attention: str = "input_layernorm"
    after_attention: str = ""
    before_mlp: str = "post_attention_layernorm"
    after_mlp: str = ""
    is_parallel: bool = False
    """The feed-forward half reads what attention reads, and both are added together."""
    norm: Literal["rms", "layer"] = "rms"
    """By root mean square, or by mean and deviation (without a bias)."""
    norm_offset: float = 0.0
    """Added to every stored gain of a norm."""
    qk_norm_over: Literal["head", "width"] = "head"
    """Where queries and keys are normed: each head by itself, or all heads together."""
    other_heads: tuple[Heads, ...] = ()
    layer_heads: tuple[int, ...] = ()
    """Per layer of the whole model 0 for `ModelShape`'s heads, i for the i-th of the others."""
    keys_are_values: bool = False
    """Of the heads of `ModelShape`, as in `Heads`."""
    has_value_norm: bool = False
    """Each head's values are normed by root mean square, without a gain."""
    has_layer_scalar: bool = False
    """The stream behind a layer is multiplied by a number of the layer's own, `layer_scalar`."""
    rotary_dim: int | None = None
    """Of a head so many numbers are turned, the first ones; None: all."""
    is_interleaved: bool = False
    """Neighbours are turned together, instead of the two halves."""
    other_ropes: tuple[Rope, ...] = ()
    layer_ropes: tuple[int, ...] = ()
    """Per layer of the whole model 0 for `ModelShape.rope`, i for the i-th of the others."""
    attention_scale: float | None = None
    """Scores are multiplied by it; None: one over the root of the head size."""
    attention_softcap: float | None = None
    """Scores `s` become `cap * tanh(s / cap)`."""
    has_sinks: bool = False
    """Each head has a number in the softmax that no value goes with."""
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    """What attention and feed-forward half add is multiplied by it."""
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    experts: Experts | None = None


LLAMA = Description()
"""Of every model whose manifest has no description."""


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """The whole model's shape; everything an engine needs beside tensors.

    `sliding_windows` has one entry per decoder layer of the whole model: the number of keys a
    query sees, itself included, or None for all. Flags name what a family adds to plain Llama; what
    they cannot say, `description` does, which is not written where there is nothing to say.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    hidden_act: str
    max_context_tokens: int
    rope: Rope
    sliding_windows: tuple[int | None, ...]
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False
    description: Description | msgspec.UnsetType = msgspec.UNSET

    @property
    def described(self) -> Description:
        """What sets the layers apart; Llama's where the manifest says nothing."""
        return LLAMA if isinstance(self.description, msgspec.UnsetType) else self.description

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """All rotary embeddings of the model, as `rope_index` counts them."""
        return (self.rope, *self.described.other_ropes)

    def rope_index(self, layer: int) -> int:
        """Which of `ropes` a layer of the whole model turns by."""
        layer_ropes = self.described.layer_ropes
        return layer_ropes[layer] if layer_ropes else 0

    @property
    def heads(self) -> tuple[Heads, ...]:
        """All kinds of heads of the model, as `Description.layer_heads` counts them."""
        own = Heads(
            head_dim=self.head_dim,
            num_key_value_heads=self.num_key_value_heads,
            keys_are_values=self.described.keys_are_values,
        )
        return (own, *self.described.other_heads)

    def heads_of(self, layer: int) -> Heads:
        """The heads of a layer of the whole model."""
        layer_heads = self.described.layer_heads
        return self.heads[layer_heads[layer] if layer_heads else 0]

    def of_layer(self, layer: int) -> "ModelShape":
        """The shape as if all layers had the heads of this one."""
        if not self.described.layer_heads:
            return self
        heads = self.heads_of(layer)
        return msgspec.structs.replace(
            self,
            head_dim=heads.head_dim,
            num_key_value_heads=heads.num_key_value_heads,
            description=msgspec.structs.replace(
                self.described,
                other_heads=(),
                layer_heads=(),
                keys_are_values=heads.keys_are_values,
            ),
        )

    def num_cached(self, layers: Iterable[int]) -> int:
        """How many numbers of keys and values these layers hold for one position."""
        heads = [self.heads_of(layer) for layer in layers]
        return sum(2 * each.num_key_value_heads * each.head_dim for each in heads)

    @property
    def attention_scale(self) -> float:
        """What scores are multiplied by."""
        scale = self.described.attention_scale
        return float(self.head_dim**-0.5) if scale is None else scale


class BundleFile(msgspec.Struct, frozen=True, kw_only=True):
    """Size and SHA-256 of one file of the bundle."""

    num_bytes: int
    sha256: str


class WrittenTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor as the bundles hold it: safetensors name of its format, and hash of its bytes."""

    dtype: str
    sha256: str


class WireRotation(msgspec.Struct, frozen=True, kw_only=True):
    """The basis of hidden states was rotated when the bundles were made (`--wire-rotation`).

    No program needs the rotation itself: it is in the weights. This says that they are rotated,
    and how: by Kronecker factors of these `sizes`, drawn with `seed`.
    """

    seed: int
    sizes: tuple[int, ...]


class Manifest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The contents of `hat.json`.

    The input submodel holds layers `[0, num_input_layers)`, the middle
    `[num_input_layers, num_layers - num_output_layers)`, the output submodel the rest.
    `tensors` names every tensor of the model, of both sides, as in the checkpoint. `fingerprint`
    (hex) follows from them, the shape and `rope_parameters`; it is the same on both sides.
    `source_fingerprint` is that of the checkpoint, another one only where numbers were cast; of
    rotated weights it is their own.
    `files` lists every file but `hat.json` itself, by its name in the bundle.
    """

    format_version: int
    role: Role
    model_name: str
    dtype: DtypeName
    num_input_layers: int
    num_output_layers: int
    fingerprint: str
    shape: ModelShape
    files: dict[str, BundleFile]
    tensors: dict[str, WrittenTensor]
    rope_parameters: dict[str, float | str]
    source_fingerprint: str
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    onnx_weights: tuple[str, ...] = ()
    wire_rotation: WireRotation | None = None
    kept_quantisation: str | None = None
    """Of a cloud bundle: by what its layers are quantised, as the checkpoint has them. `tensors`
    are then what they are dequantised, not what the file holds."""

    @property
    def num_middle_layers(self) -> int:
        """How many layers the cloud runs."""
        return self.shape.num_layers - self.num_input_layers - self.num_output_layers

    @property
    def middle_layers(self) -> range:
        """The layers the cloud runs, numbered as in the whole model."""
        return range(self.num_input_layers, self.shape.num_layers - self.num_output_layers)
