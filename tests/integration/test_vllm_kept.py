"""A middle that stays quantised, on vLLM's CPU kernels: near what its numbers say dequantised."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import StepItem, Want
from process.errors import StartError
from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed
from submodels.bundle.layers import LayerCache, load_layers, run_layers
from submodels.random_models import RandomModel, make_random_model
from submodels.tensors.tensor_layout import Part
from tests.support.quantised_models import KINDS, quantise
from tests.support.split_models import split
from tests.support.vllm_engines import BLOCK_TOKENS, has_vllm
from tests.support.vllm_family_models import VLLM_MODELS
from wire.numbers import NUMPY_DTYPES

pytestmark = [
    pytest.mark.skipif(not has_vllm(), reason="needs vLLM: make test-vllm"),
    pytest.mark.timeout(600),
]

_SIZES: dict[str, Any] = {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 64,
}
LLAMA = RandomModel(num_layers=4, seed=3, **_SIZES)
OLMO = RandomModel("olmo2", num_layers=4, seed=3, extra=VLLM_MODELS["olmo2"].extra, **_SIZES)
# Rows reach 5, and 16-bit sums and activations are rounded in another order.
MAX_SHARE = 0.03
# Activations are floats of 8 bits as well, with 3 behind the point; measured: 0.043.
MAX_SHARE_OF_FP8 = 0.07


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (LLAMA, "compressed-tensors, int4"),
        (OLMO, "compressed-tensors, int4"),
        (LLAMA, "compressed-tensors, int4 with zero points"),
        (LLAMA, "compressed-tensors, int8"),
        (LLAMA, "compressed-tensors, fp8 by row"),
        (LLAMA, "awq"),
        (LLAMA, "gptq, symmetric"),
    ],
    ids=lambda each: each.family if isinstance(each, RandomModel) else each,
)
def test_a_kept_middle_is_near_its_dequantised_one(
    model: RandomModel, kind: str, tmp_path: Path
) -> None:
    from cloud_server.engines.vllm.bundle import load_vllm_engine

    model = replace(model, dtype=KINDS[kind].dtype)  # type: ignore[arg-type]
    make_random_model(model, tmp_path / "model")
    quantise(tmp_path / "model", KINDS[kind], tmp_path / "packed", tmp_path / "plain")
    split(tmp_path / "packed", tmp_path / "out", 1, 1)
    split(tmp_path / "packed", tmp_path / "kept", 1, 1, keep_quantisation=True)
    layers = load_layers(load_bundle(tmp_path / "out", "cloud"), Part.MIDDLE, Placed())
    rows = torch.randn(40, model.hidden_size, generator=torch.Generator().manual_seed(3))
    rows = rows.to(getattr(torch, model.dtype)).float()
    with torch.inference_mode():
        expected = run_layers(layers, rows, 0, [LayerCache() for _ in layers]).numpy()
    loaded = load_vllm_engine(load_bundle(tmp_path / "kept", "cloud"), _config(tmp_path / "kept"))
    try:
        sequence = loaded.engine.open(64)
        given = rows.numpy().astype(NUMPY_DTYPES[loaded.engine.dtype])
        (came,) = loaded.engine.step([StepItem(sequence, 0, given, Want.ALL)])
    finally:
        loaded.close()
    error = np.abs(came.astype(np.float32) - expected)
    share = MAX_SHARE_OF_FP8 if "fp8" in kind else MAX_SHARE
    assert error.max() < share * np.abs(expected).max()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gptq v2, 2 bits", "the bundle has GPTQ of 2 bits"),
        ("gptq v2, 8 bits", "the bundle has GPTQ of 8 bits"),
        ("compressed-tensors, packed int8", "the bundle has pack-quantized of 8 bits"),
        ("fp8, blocks", "on a CPU without AMX, which this one is"),
        ("compressed-tensors, fp8 by tensor", "on a CPU without AMX, which this one is"),
    ],
)
def test_what_vllm_has_no_kernel_for_ends_the_start_with_a_line(
    kind: str, words: str, tmp_path: Path
) -> None:
    """Before a process is started."""
    from cloud_server.engines.vllm.bundle import load_vllm_engine

    if "fp8" in kind and torch.cpu._is_amx_tile_supported():
        pytest.skip("this processor has AMX")
    make_random_model(replace(LLAMA, dtype=KINDS[kind].dtype), tmp_path / "model")  # type: ignore[arg-type]
    quantise(tmp_path / "model", KINDS[kind], tmp_path / "packed", tmp_path / "plain")
    split(tmp_path / "packed", tmp_path / "kept", 1, 1, keep_quantisation=True)
    with pytest.raises(StartError, match=words):
        load_vllm_engine(load_bundle(tmp_path / "kept", "cloud"), _config(tmp_path / "kept"))


def _config(bundle: Path) -> CloudConfig:
    return CloudConfig(
        bundle,
        engine="vllm",
        capacity_tokens=64 * BLOCK_TOKENS,
        max_context_tokens=256,
        vllm_args=json.dumps({"enforce_eager": True, "block_size": BLOCK_TOKENS}),
    )
