"""Seeded random checkpoints in the shapes of real models, and telling them from real ones.

What such a model says is noise, so only times and bytes may be measured with it, never how
many drafts it accepts. Tensors are made and written piece by piece: memory stays small.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bench.data_folder import data_folder
from bench.model_shapes import SHAPES, ModelShape
from bench.workloads.data_files import GPT2_TOKENIZER
from submodels.tensors.safetensors_writer import SafetensorsWriter, TensorToWrite

MARK, SEED_KEY = "hat_random_weights", "hat_random_seed"
"""What config.json says of such a model."""

_VOCAB_SIZE = 50_257
_END_TOKEN_ID = 50_256
_ITEM_BYTES = 2
_PIECE_ROWS = 4096
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Logits about this far apart, so that the likeliest token is not chosen by rounding.
_LOGIT_SPREAD = 3.0


@dataclass(frozen=True, slots=True)
class MadeModel:
    """A checkpoint that was written."""

    folder: Path
    num_parameters: int
    num_bytes: int


def make_model(
    shape_name: str,
    folder: Path,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> MadeModel:
    """Write a checkpoint of one of `SHAPES`, in bfloat16, that `hat split` reads.

    The same shape and seed give the same bytes. `progress` is called with bytes done and in all.
    The row of the end token is zero in the head, so that it is not the likeliest and answers get
    as long as they are asked to be.

    Raises:
        KeyError: no such shape.
        FileExistsError: the folder is there and not empty.
        MissingDataError: this installation is without the tokenizer.
        OSError: a file cannot be written.
    """
    shape, tokenizer = SHAPES[shape_name], data_folder(GPT2_TOKENIZER)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    tensors = [
        TensorToWrite(name, "BF16", size, int(np.prod(size)) * _ITEM_BYTES)
        for name, size in _tensor_sizes(shape)
    ]
    num_bytes, num_done = sum(tensor.num_bytes for tensor in tensors), 0
    with SafetensorsWriter(folder / "model.safetensors", tensors) as writer:
        for index, tensor in enumerate(tensors):
            for piece in _pieces(tensor, np.random.Philox([seed, index])):
                writer.write(tensor.name, piece.tobytes())
                num_done += piece.nbytes
                progress(num_done, num_bytes)
        writer.finish()
    for file in ("tokenizer.json", "tokenizer_config.json", "LICENSE"):
        name = "LICENSE-tokenizer" if file == "LICENSE" else file
        shutil.copyfile(tokenizer / file, folder / name)
    # Last: a folder without it is no model, should this have been interrupted.
    (folder / "config.json").write_text(json.dumps(_config(shape, seed), indent=2) + "\n")
    return MadeModel(folder, num_bytes // _ITEM_BYTES, num_bytes)


def has_real_weights(folder: Path) -> bool:
    """Whether the checkpoint in `folder` is a trained one, as far as its config.json says.

    Raises:
        OSError: no config.json there.
    """
    return not json.loads((folder / "config.json").read_text()).get(MARK, False)


def _tensor_sizes(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = shape.hidden_size, shape.intermediate_size
    kv_width = shape.num_kv_heads * shape.head_dim
    yield _EMBEDDING, (_VOCAB_SIZE, width)
    for layer in range(shape.num_layers):
        start = f"model.layers.{layer}"
        yield f"{start}.input_layernorm.weight", (width,)
        yield f"{start}.self_attn.q_proj.weight", (width, width)
        yield f"{start}.self_attn.k_proj.weight", (kv_width, width)
        yield f"{start}.self_attn.v_proj.weight", (kv_width, width)
        yield f"{start}.self_attn.o_proj.weight", (width, width)
        yield f"{start}.post_attention_layernorm.weight", (width,)
        yield f"{start}.mlp.gate_proj.weight", (inner, width)
        yield f"{start}.mlp.up_proj.weight", (inner, width)
        yield f"{start}.mlp.down_proj.weight", (width, inner)
    yield "model.norm.weight", (width,)
    yield _HEAD, (_VOCAB_SIZE, width)


def _pieces(tensor: TensorToWrite, bits: np.random.Philox) -> Iterator[NDArray[Any]]:
    """A tensor's rows in order, some thousand at a time."""
    if len(tensor.shape) == 1:
        yield np.ones(tensor.shape, ml_dtypes.bfloat16)
        return
    source = np.random.Generator(bits)
    num_rows, num_columns = tensor.shape
    is_vocabulary = tensor.name in (_EMBEDDING, _HEAD)
    # Rows of unit size give rows of unit size, but for the logits.
    scale = np.float32((_LOGIT_SPREAD if is_vocabulary else 1.0) * num_columns**-0.5)
    for start in range(0, num_rows, _PIECE_ROWS):
        count = min(_PIECE_ROWS, num_rows - start)
        rows = source.standard_normal((count, num_columns), np.float32) * scale
        if is_vocabulary and start <= _END_TOKEN_ID < start + count:
            rows[_END_TOKEN_ID - start] = 0
        yield rows.astype(ml_dtypes.bfloat16)


def _config(shape: ModelShape, seed: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": _VOCAB_SIZE,
        "max_position_embeddings": shape.max_context_tokens,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": _END_TOKEN_ID,
        "eos_token_id": _END_TOKEN_ID,
        "dtype": "bfloat16",
        MARK: True,
        SEED_KEY: seed,
    }
