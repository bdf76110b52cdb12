"""The middle of every described family that vLLM has a fitting class for, from a bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import StepItem, Want
from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed
from submodels.bundle.layers import LayerCache, load_layers, run_layers
from submodels.random_models import RandomModel, make_random_model
from submodels.tensors.tensor_layout import Part
from tests.support.split_models import split
from tests.support.vllm_engines import BLOCK_TOKENS, has_vllm

pytestmark = [
    pytest.mark.skipif(not has_vllm(), reason="needs vLLM: make test-vllm"),
    pytest.mark.timeout(600),
]

# Heads as wide as vLLM wants them on a CPU.
_SIZES = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
_PARTIAL = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.75}
MODELS = {
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "phi3": {"sliding_window": None, "rope_parameters": _PARTIAL},
    "glm4": {"attention_bias": True},
}
# Rows reach 7; measured: up to 1e-5.
MAX_ERROR = 1e-4


@pytest.mark.parametrize("family", MODELS)
def test_a_familys_middle_on_vllm_equals_its_layers(family: str, tmp_path: Path) -> None:
    from cloud_server.engines.vllm.bundle import load_vllm_engine

    model = RandomModel(family, extra=MODELS[family], intermediate_size=64, **_SIZES)
    make_random_model(model, tmp_path / "model")
    out = tmp_path / "out"
    split(tmp_path / "model", out, 1, 1)
    cloud = load_bundle(out, "cloud")
    layers = load_layers(cloud, Part.MIDDLE, Placed())
    rows = torch.randn(70, model.hidden_size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = run_layers(layers, rows, 0, [LayerCache() for _ in layers]).numpy()
    config = CloudConfig(
        out,
        engine="vllm",
        dtype="float32",
        capacity_tokens=64 * BLOCK_TOKENS,
        max_context_tokens=256,
        vllm_args=json.dumps({"enforce_eager": True, "block_size": BLOCK_TOKENS}),
    )
    loaded = load_vllm_engine(cloud, config)
    try:
        sequence = loaded.engine.open(128)
        drafted = rows[:9].numpy()
        steps = ((0, rows[:40].numpy()), (40, drafted), (40, rows[40:41].numpy()))
        for start, chunk in (*steps, (41, rows[41:].numpy())):
            (came,) = loaded.engine.step([StepItem(sequence, start, chunk, Want.ALL)])
            if chunk is not drafted:
                np.testing.assert_allclose(
                    came, expected[start : start + len(chunk)], rtol=0, atol=MAX_ERROR
                )
    finally:
        loaded.close()
