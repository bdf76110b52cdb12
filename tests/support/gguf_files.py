"""GGUF files made of checkpoints, as llama.cpp's converter makes them, by the gguf package."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.support.gguf_converted import family_settings, family_tensors

# Where the scales lie in a block of each format that the package cannot write, as float16.
SCALES: Mapping[Kind, tuple[int, ...]] = MappingProxyType(
    {
        Kind.Q2_K: (80, 82),
        Kind.Q3_K: (108,),
        Kind.Q4_K: (0, 2),
        Kind.Q5_K: (0, 2),
        Kind.Q6_K: (208,),
        Kind.IQ4_NL: (0,),
        Kind.IQ4_XS: (0,),
    }
)
_WRITABLE = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0)
_CONTROL, _NORMAL = 3, 1


@dataclass(frozen=True, slots=True)
class GgufSettings:
    """How to write one. `settings` are added, or replace those of the checkpoint."""

    kind: Kind = Kind.F32
    """Of all matrices; vectors are float32."""
    architecture: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Further ones, by llama.cpp's names."""
    max_tensors_per_file: int = 0


def write_gguf(checkpoint: Path, path: Path, how: GgufSettings = GgufSettings()) -> None:
    """Write the checkpoint in a folder as a GGUF file, or several."""
    config = json.loads((checkpoint / "config.json").read_text())
    architecture = how.architecture or config["model_type"]
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=how.max_tensors_per_file)
    for name, value in {**_model_settings(config, architecture), **how.settings}.items():
        _add(writer, name if name.startswith("general.") else f"{architecture}.{name}", value)
    _add_tokenizer(writer, checkpoint, config)
    for name, array in _tensors(checkpoint, config, architecture).items():
        kind = how.kind if array.ndim > 1 and name.endswith("weight") else Kind.F32
        data = blocks_like(array, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    for name, array in how.tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def blocks_like(array: NDArray[np.float32], kind: Kind) -> NDArray[Any]:
    """An array's numbers in a format; random blocks about as large where it cannot be written."""
    if kind in (Kind.F32, Kind.F16):
        return array.astype(np.float32 if kind is Kind.F32 else np.float16)
    if kind in _WRITABLE:
        return quantize(np.ascontiguousarray(array), kind)
    return random_blocks(array.shape, kind, float(np.abs(array).mean()))


def random_blocks(shape: tuple[int, ...], kind: Kind, size: float, seed: int = 0) -> NDArray[Any]:
    """Random blocks of a format, whose numbers have the mean magnitude `size`."""
    generator = np.random.default_rng([seed, *shape])
    block_numbers, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = generator.integers(
        0, 256, (math.prod(shape) // block_numbers, block_bytes), dtype=np.uint8
    )
    _set_scales(blocks, kind, 1.0)
    scale = size / float(np.abs(dequantize(blocks, kind)).mean())
    _set_scales(blocks, kind, scale)
    row_bytes = shape[-1] // block_numbers * block_bytes
    return blocks.reshape(*shape[:-1], row_bytes)


def _set_scales(blocks: NDArray[np.uint8], kind: Kind, scale: float) -> None:
    for place in SCALES[kind]:
        blocks[:, place : place + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)


def _model_settings(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    num_heads, hidden_size = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or hidden_size // num_heads
    settings = {
        "general.name": "a test's",
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": hidden_size,
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": num_heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "vocab_size": config["vocab_size"],
    }
    if "rms_norm_eps" in config:
        settings["attention.layer_norm_rms_epsilon"] = float(config["rms_norm_eps"])
    return {**settings, **family_settings(config, architecture)}


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, config: Mapping[str, Any]) -> None:
    """A byte-level tokenizer; the vocabulary is filled up to the embedding's."""
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    ids = dict(tokenizer["model"]["vocab"])
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    texts = {index: text for text, index in {**ids, **special}.items()}
    tokens = [texts.get(index, f"[PAD{index}]") for index in range(config["vocab_size"])]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    if not merges:
        # The format has no empty lists.
        tokens[-1], merges = "ab", ["a b"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if t in special else _NORMAL for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def _tensors(
    checkpoint: Path, config: Mapping[str, Any], architecture: str
) -> dict[str, NDArray[np.float32]]:
    tensors: dict[str, NDArray[np.float32]] = {}
    for shard in sorted(checkpoint.glob("*.safetensors")):
        tensors |= {name: array.astype(np.float32) for name, array in load_file(shard).items()}
    return family_tensors(tensors, config, architecture)
