"""`hat.json`: what a bundle holds, in words a program can check. Needs no torch."""

from typing import Literal

import msgspec

FORMAT_VERSION = 2

Role = Literal["device", "cloud"]
DtypeName = Literal["float32", "float16", "bfloat16"]


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary embedding as numbers: `inv_freq` `[head_dim / 2]`, and the factor on cos and sin."""

    inv_freq: tuple[float, ...]
    attention_scaling: float = 1.0


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """The whole model's shape; everything an engine needs beside tensors.

    `sliding_windows` has one entry per decoder layer of the whole model: the number of keys a
    query sees, itself included, or None for all. Flags name what a family adds to plain Llama.
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

    @property
    def num_middle_layers(self) -> int:
        """How many layers the cloud runs."""
        return self.shape.num_layers - self.num_input_layers - self.num_output_layers
