"""Random models whose shapes GPU kernels take and any number of workers can share."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from submodels.bundle.fingerprint import fingerprint_of
from submodels.bundle.manifest_file import MANIFEST_FILE
from submodels.manifest import FORMAT_VERSION, BundleFile, Manifest, ModelShape, Rope
from submodels.tensors.file_hashes import sha256_of, tensor_hash
from submodels.tensors.tensor_file import read_header
from submodels.tensors.tensor_layout import Part, layer_name, layer_tensor_shapes, placements

if TYPE_CHECKING:
    from submodels.random_models import RandomModel

HEAD_DIM = 64
"""The smallest that every attention kernel of vLLM takes, on CPUs and GPUs."""

MAX_CONTEXT_TOKENS = 1024
NUM_OUTER_LAYERS = 1
"""Before the middle, and behind it."""

_VOCAB_SIZE = 320
_ROPE_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class RandomBundle:
    """A cloud bundle."""

    path: Path
    model: Path | None
    """The checkpoint it was split from, if it was."""
    made_of: "RandomModel"

    @property
    def num_middle_layers(self) -> int:
        """Those that the cloud has; there is one layer before them and one behind."""
        return self.made_of.num_layers - 2 * NUM_OUTER_LAYERS


def model_for(
    family: Literal["llama", "qwen3"], num_shards: int, num_stages: int, is_large: bool
) -> "RandomModel":
    """A small or larger model that so many workers can share, each with layers of its own."""
    from submodels.random_models import RandomModel

    num_keys = max(2, num_shards)
    num_heads = num_keys * max(2, -(-(16 if is_large else 4) // num_keys))
    inner = 2816 if is_large else 384
    return RandomModel(
        family,
        num_layers=max(8 if is_large else 4, num_stages) + 2 * NUM_OUTER_LAYERS,
        hidden_size=1024 if is_large else 256,
        intermediate_size=num_shards * -(-inner // num_shards),
        num_attention_heads=num_heads,
        num_key_value_heads=num_keys,
        head_dim=HEAD_DIM,
        vocab_size=_VOCAB_SIZE,
        max_context_tokens=MAX_CONTEXT_TOKENS,
        dtype="bfloat16" if is_large else "float32",
    )


def can_split() -> bool:
    """Whether the packages that `hat split` needs are installed."""
    return all(importlib.util.find_spec(name) for name in ("transformers", "tokenizers"))


def random_bundle(model: "RandomModel", folder: Path) -> RandomBundle:
    """Make a random checkpoint and split it as `hat split` does."""
    from submodels.random_models import make_random_model
    from submodels.split import SplitOptions, split_checkpoint

    made = folder / "model"
    make_random_model(model, made)
    options = SplitOptions(
        str(made), folder / "split", NUM_OUTER_LAYERS, NUM_OUTER_LAYERS, onnx_weights=()
    )
    return RandomBundle(split_checkpoint(options).out / "cloud", made, model)


def unsplit_bundle(model: "RandomModel", folder: Path) -> RandomBundle:
    """A cloud bundle written straight away, where `hat split` cannot run; Llama only, float32.

    It has no config.json, which only vLLM needs; vLLM brings `transformers` with it.
    """
    made = RandomBundle(folder / "cloud", None, model)
    made.path.mkdir(parents=True)
    shape = _model_shape(model)
    weights = made.path / Part.MIDDLE.value
    _write_noise(shape, made.num_middle_layers, weights)
    infos = read_header(weights)
    written = {
        placement.source: tensor_hash(weights, infos[placement.name])
        for placement in placements(shape, NUM_OUTER_LAYERS, NUM_OUTER_LAYERS)
        if placement.part is Part.MIDDLE
    }
    rope: dict[str, float | str] = {"rope_type": "default", "rope_theta": _ROPE_THETA}
    fingerprint = fingerprint_of(shape, rope, written)
    listed = BundleFile(num_bytes=weights.stat().st_size, sha256=sha256_of(weights))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        role="cloud",
        model_name="random",
        dtype="float32",
        num_input_layers=NUM_OUTER_LAYERS,
        num_output_layers=NUM_OUTER_LAYERS,
        fingerprint=fingerprint,
        shape=shape,
        files={weights.name: listed},
        tensors=written,
        rope_parameters=rope,
        source_fingerprint=fingerprint,
    )
    (made.path / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    return made


def _write_noise(shape: ModelShape, num_layers: int, weights: Path) -> None:
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)
    tensors = {}
    for index in range(num_layers):
        for name, size in layer_tensor_shapes(shape).items():
            noise = generator.standard_normal(size, np.float32)
            scaled = 1 + 0.3 * noise if len(size) == 1 else noise * size[-1] ** -0.5
            tensors[layer_name(index, name)] = scaled.astype(np.float32)
    save_file(tensors, weights, {"format": "pt"})


def _model_shape(model: "RandomModel") -> ModelShape:
    half = np.arange(0, HEAD_DIM, 2) / HEAD_DIM
    return ModelShape(
        model_type="llama",
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        vocab_size=_VOCAB_SIZE,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_key_value_heads,
        head_dim=HEAD_DIM,
        rms_norm_eps=1e-6,
        hidden_act="silu",
        max_context_tokens=MAX_CONTEXT_TOKENS,
        rope=Rope(inv_freq=tuple((_ROPE_THETA**-half).tolist())),
        sliding_windows=(None,) * model.num_layers,
    )
