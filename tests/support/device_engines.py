"""Split random checkpoints, their device engines, and the rows transformers has between layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from device_runtime.engines.engine import Rows, SequenceId
from device_runtime.engines.onnx_engine import load_onnx_engine
from device_runtime.engines.submodel_engine import SubmodelEngine
from device_runtime.engines.torch_engine import load_torch_engine
from submodels.random_models import RandomModel
from tests.support.split_models import VARIANTS

LoadEngine = Callable[[Path], SubmodelEngine]

ENGINES: Mapping[str, LoadEngine] = MappingProxyType(
    {
        "onnx": lambda bundle: load_onnx_engine(bundle, "float32", 1, None),
        "torch": lambda bundle: load_torch_engine(bundle, 1, None),
    }
)
"""Every device engine, in float32, on one thread."""

DRAFTING_ENGINES: Mapping[str, LoadEngine] = MappingProxyType(
    {
        "onnx": lambda bundle: load_onnx_engine(bundle, "float32", 1, None, "float32"),
        "torch": lambda bundle: load_torch_engine(bundle, 1, None, with_adapter=True),
    }
)
"""The same with the bundle's adapter."""

ODD_SIZES: Mapping[str, RandomModel] = MappingProxyType(
    {
        "llama, narrow heads with biases": RandomModel(
            "llama",
            head_dim=8,
            hidden_size=40,
            intermediate_size=172,
            tied=True,
            extra={"attention_bias": True, "mlp_bias": True},
        ),
        "qwen3, heads between sizes": RandomModel(
            "qwen3", head_dim=24, hidden_size=72, extra={"rms_norm_eps": 0.1}
        ),
    }
)
"""Sizes that the ONNX graphs pad: heads not a multiple of 16, rows not of a block.

An epsilon as large as this shows when the padding is not taken into account.
"""

DEVICE_VARIANTS: Mapping[str, RandomModel] = MappingProxyType({**VARIANTS, **ODD_SIZES})


@dataclass(frozen=True, slots=True)
class WholeModel:
    """What transformers computes: `rows[i]` `[T, H]` enter layer i, the last leave the layers."""

    rows: tuple[Rows, ...]
    logits: Rows


@torch.inference_mode()
def run_whole_model(folder: Path, token_ids: Sequence[int]) -> WholeModel:
    """The unsplit model over all tokens at once, float32, eager attention."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rows: list[Rows] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, args: rows.append(args[0][0].numpy().copy()))
    model.model.norm.register_forward_pre_hook(
        lambda _, args: rows.append(args[0][0].numpy().copy())
    )
    logits = model(torch.tensor([list(token_ids)])).logits[0].numpy()
    return WholeModel(tuple(rows), logits)


def rows_in_chunks(
    engine: SubmodelEngine,
    sequence: SequenceId,
    token_ids: Sequence[int],
    size: int,
    start: int = 0,
) -> Rows:
    """Input rows of the tokens, which begin at `start`, made in chunks."""
    spans = range(0, len(token_ids), size)
    return np.concatenate(
        [engine.input_rows(sequence, token_ids[i : i + size], start + i) for i in spans]
    )


def logits_in_chunks(
    engine: SubmodelEngine, sequence: SequenceId, deep: Rows, size: int, start: int = 0
) -> Rows:
    """Logits of all deep rows, which begin at `start`, made in chunks."""
    chunks = [(start + i, deep[i : i + size]) for i in range(0, len(deep), size)]
    return np.concatenate(
        [engine.logits(sequence, chunk, position, len(chunk)) for position, chunk in chunks]
    )


def random_rows(num_rows: int, hidden_size: int, seed: int = 0) -> Rows:
    """Rows such as a cloud might return."""
    return np.random.default_rng(seed).standard_normal((num_rows, hidden_size), np.float32)
