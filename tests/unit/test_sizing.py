"""Sizes of docs/scaling.md, against arithmetic by hand and the engine's own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from bench.steps.middle_step import random_bundle
from bench.steps.sizing import GIB, WEIGHT_BITS, Gpus, SplitModel, known_models
from cloud_server.config import CloudConfig
from cloud_server.core_settings import core_settings
from cloud_server.engines.torch.kv_slab import KvShape, LayerKv
from submodels.bundle.coding_file import ChannelScales
from submodels.plan.checks import default_input_layers
from submodels.random_models import RandomModel
from tests.support.scaling_tables import DOCUMENT, with_fresh_tables
from wire.messages import Dtype


@pytest.mark.parametrize("model", known_models(), ids=lambda model: model.name)
def test_the_models_are_cut_as_split_does_by_default(model: SplitModel) -> None:
    assert model.num_input_layers == default_input_layers(model.shape.num_layers)


def test_the_tables_of_the_document_are_fresh() -> None:
    """Stale? `python -m tests.support.scaling_tables` rewrites them."""
    text = DOCUMENT.read_text()
    assert with_fresh_tables(text) == text


def test_weights_and_kv_are_those_worked_by_hand() -> None:
    seven, eight, seventy = known_models()
    # Llama-2-7B: per layer 4 x 4096^2 + 3 x 4096 x 11008 + 2 norms of 4096.
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert seven.num_cloud_weights == 30 * layer == 6_071_500_800
    # Two layers, embedding, head and final norm; with the cloud's, the 6.74 G of the model card.
    assert seven.num_device_weights == 2 * layer + 2 * 32000 * 4096 + 4096
    assert seven.num_cloud_weights + seven.num_device_weights == 6_738_415_616
    assert seven.kv_bytes_per_token == 2 * 30 * 32 * 128 * 2 == 480 * 1024
    # Llama-3.1-8B: keys and values of 8 heads.
    assert eight.num_cloud_weights + eight.num_device_weights == 8_030_261_248
    assert eight.kv_bytes_per_token == 2 * 30 * 8 * 128 * 2 == 120 * 1024
    assert seventy.num_cloud_weights + seventy.num_device_weights == 70_553_706_496
    assert seventy.kv_bytes_per_token == 2 * 77 * 8 * 128 * 2 == 308 * 1024
    assert (eight.row_bytes, seventy.row_bytes) == (8192, 16384)
    assert eight.cloud_bytes(WEIGHT_BITS["8 bit"]) == eight.num_cloud_weights
    assert WEIGHT_BITS["4 bit"] == 4.15625


def test_kv_per_token_is_the_engines_own() -> None:
    for model in known_models():
        heads, size = model.shape.num_key_value_heads, model.shape.head_dim
        cpu = torch.device("cpu")
        layers = (LayerKv(heads, size),) * model.num_middle_layers
        engine = KvShape(layers, torch.bfloat16, cpu, True)
        assert model.kv_bytes_per_token == engine.bytes_per_token


def test_gpus_share_weights_and_heads_but_no_head_is_cut() -> None:
    _, eight, seventy = known_models()
    alone = eight.on(Gpus(80 * GIB), 16)
    assert alone.weight_bytes == 2 * eight.num_cloud_weights
    assert alone.capacity_tokens == int((72 * GIB - 2 * GIB - alone.weight_bytes) // (120 * 1024))
    # Stages of 39 and 38 layers, each divided by 4: two KV heads per GPU.
    staged = seventy.on(Gpus(80 * GIB, 4, 2), 16)
    assert staged.weight_bytes == pytest.approx(2 * seventy.num_cloud_weights * 39 / 77 / 4)
    assert staged.kv_bytes_per_token == 2 * 39 * 2 * 128 * 2
    # 16 GPUs share 8 KV heads: each holds a whole one.
    assert seventy.on(Gpus(80 * GIB, 16), 16).kv_bytes_per_token == 2 * 77 * 1 * 128 * 2
    assert seventy.on(Gpus(80 * GIB), 16).capacity_tokens == 0


def test_a_steps_traffic_is_that_worked_by_hand() -> None:
    model = known_models()[2]
    assert 512 * model.row_bytes == 512 * 16384 == 8_388_608
    assert model.stage_bytes(512) == 16_777_216
    # 77 layers, two sums each; a ring of 8 sends 7/8 of a vector twice.
    assert model.reduce_bytes(512, 8) == 154 * 8_388_608 * 14 / 8
    assert model.reduce_bytes(512, 1) == 0


@pytest.mark.parametrize("hidden_size", [4096, 8192])
def test_the_rows_that_a_connection_may_have_outstanding_are_the_documents(
    hidden_size: int, tmp_path: Path
) -> None:
    manifest = random_bundle(RandomModel(dtype="bfloat16"), tmp_path).manifest
    engine = SimpleNamespace(
        takes_taps=True,
        hidden_size=hidden_size,
        dtype=Dtype.BF16,
        capacity_tokens=100_000,
        max_context_tokens=8192,
        block_tokens=16,
    )
    settings = core_settings(CloudConfig(Path()), manifest, cast(Any, engine), ChannelScales())
    assert settings.credit_window_tokens == 2048
    assert "may have 2,048 rows outstanding" in DOCUMENT.read_text()
