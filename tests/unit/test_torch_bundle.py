"""What the torch engine is given: device, number format, context and capacity, or a clear no."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import StepItem
from cloud_server.engines.torch import bundle as torch_bundle
from cloud_server.engines.torch import probe as torch_probe
from cloud_server.engines.torch.bundle import default_threads, load_torch_engine
from cloud_server.number_format import FORMATS, NAMES, FormatTimes
from process.errors import StartError
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.layer_weights import Placed
from submodels.bundle.layers import LayerCache, load_layers, run_layers
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from submodels.tensors.tensor_layout import Part
from wire.messages import Dtype, Want


def _bundle(folder: Path, **settings: object) -> Bundle:
    make_random_model(RandomModel(num_layers=3, **settings), folder / "model")
    split_checkpoint(SplitOptions(str(folder / "model"), folder / "out", 1, onnx_weights=()))
    return load_bundle(folder / "out", "cloud")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _bundle(tmp_path_factory.mktemp("float32"), dtype="float32")


@pytest.fixture(scope="module")
def half_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Dtype, Bundle]:
    return {
        FORMATS[name]: _bundle(tmp_path_factory.mktemp(name), dtype=name)
        for name in ("float16", "bfloat16")
    }


@pytest.fixture
def config(bundle: Bundle) -> CloudConfig:
    return CloudConfig(bundle.path, device="cpu", threads=1)


def test_the_loaded_layers_are_the_bundle_s(bundle, config):
    loaded = load_torch_engine(bundle, config)
    rows = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    layers = load_layers(bundle, Part.MIDDLE, Placed())
    with torch.inference_mode():
        expected = run_layers(layers, torch.from_numpy(rows), 0, [LayerCache() for _ in layers])
    sequence = loaded.engine.open(20)
    (deep,) = loaded.engine.step([StepItem(sequence, 0, rows, Want.ALL)])
    np.testing.assert_allclose(deep, expected.numpy(), atol=1e-5)
    assert loaded.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4


@pytest.mark.parametrize(
    ("asked", "expected"), [("auto", Dtype.FP32), ("bfloat16", Dtype.BF16), ("float16", Dtype.FP16)]
)
def test_the_number_format_is_the_one_asked_for(bundle, config, asked, expected):
    assert load_torch_engine(bundle, replace(config, dtype=asked)).engine.dtype is expected


OWN_IS_SLOW = {
    Dtype.BF16: FormatTimes(9.0, 0.1),
    Dtype.FP16: FormatTimes(9.0, 0.1),
    Dtype.FP32: FormatTimes(1.0, 0.1),
}
OWN_IS_FAST = OWN_IS_SLOW | {Dtype.FP32: FormatTimes(20.0, 0.2)}


@pytest.mark.parametrize("stored", [Dtype.BF16, Dtype.FP16])
@pytest.mark.parametrize("times", [OWN_IS_SLOW, OWN_IS_FAST], ids=["slow", "fast"])
def test_the_number_format_is_the_one_that_was_measured_to_be_faster(
    half_bundles, config, monkeypatch, caplog, stored, times
):
    caplog.set_level("INFO")
    monkeypatch.setattr(torch_probe, "measure_formats", lambda *_: times)
    engine = load_torch_engine(half_bundles[stored], config).engine
    expected = Dtype.FP32 if times is OWN_IS_SLOW else stored
    assert engine.dtype is expected
    assert f"number format {NAMES[expected]}: 256 rows take about" in caplog.text


def test_float32_is_not_chosen_where_it_leaves_no_room_for_a_session(
    half_bundles, config, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr(torch_probe, "measure_formats", lambda *_: OWN_IS_SLOW)
    bundle = half_bundles[Dtype.BF16]
    kv_bytes = 2 * 2 * 2 * 16 * 4 * bundle.manifest.shape.max_context_tokens
    weight_bytes = 4 * torch_probe.num_weights(bundle.manifest.shape, range(2))
    for spare, expected in ((0, Dtype.FP32), (-1, Dtype.BF16)):
        free_bytes = weight_bytes + 2 * kv_bytes + spare
        monkeypatch.setattr(torch_bundle, "available_bytes", lambda free=free_bytes: free)
        engine = load_torch_engine(bundle, config).engine
        assert engine.dtype is expected
        assert engine.max_context_tokens == 512
    assert "number format bfloat16: as in the bundle; float32 would take" in caplog.text


def test_a_format_that_was_asked_for_is_not_measured(half_bundles, config, monkeypatch):
    monkeypatch.setattr(torch_probe, "measure_formats", lambda *_: pytest.fail("measured"))
    asked = replace(config, dtype="bfloat16")
    assert load_torch_engine(half_bundles[Dtype.BF16], asked).engine.dtype is Dtype.BF16


def test_a_real_measurement_ends_in_one_of_the_two(half_bundles, config):
    assert load_torch_engine(half_bundles[Dtype.FP16], config).engine.dtype in OWN_IS_SLOW


def test_capacity_is_what_sessions_can_use_when_memory_allows(bundle, config):
    engine = load_torch_engine(bundle, replace(config, max_sessions=3)).engine
    assert (engine.capacity_tokens, engine.max_context_tokens) == (3 * 512, 512)


def test_capacity_is_what_memory_allows(bundle, config, monkeypatch):
    monkeypatch.setattr(torch_bundle, "available_bytes", lambda: 1 << 20)
    engine = load_torch_engine(bundle, config).engine
    assert 0 < engine.capacity_tokens * 512 < 1 << 19


def test_a_context_is_never_longer_than_the_capacity(bundle, config):
    engine = load_torch_engine(bundle, replace(config, capacity_tokens=100)).engine
    assert (engine.capacity_tokens, engine.max_context_tokens) == (100, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity_tokens": 1 << 40}, r"capacity_tokens 1099511627776 takes .* GiB"),
        ({"max_context_tokens": 513}, "max_context_tokens 513: .* at most 512"),
        ({"device": "gpu0"}, "expected auto, cpu, cuda or cuda:N, got 'gpu0'"),
        ({"device": "meta"}, "expected auto, cpu, cuda or cuda:N, got 'meta'"),
        ({"device": "cuda:99"}, "device cuda:99"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_number(bundle, config, change, message):
    with pytest.raises(StartError, match=message):
        load_torch_engine(bundle, replace(config, **change))


@pytest.mark.parametrize(("free_bytes", "message"), [(1 << 12, "layers take"), (-1, "layers take")])
def test_weights_that_do_not_fit_are_refused(bundle, config, monkeypatch, free_bytes, message):
    monkeypatch.setattr(torch_bundle, "available_bytes", lambda: free_bytes)
    with pytest.raises(StartError, match=message):
        load_torch_engine(bundle, config)


def test_a_machine_that_cannot_pack_serves_all_the_same(bundle, config, monkeypatch, caplog):
    monkeypatch.setattr(torch_bundle, "why_not_packed", lambda device, dtype: "an old processor")
    assert "plain weights" in load_torch_engine(bundle, config).description
    assert "an old processor" in caplog.text


def test_there_is_always_a_thread():
    assert default_threads() >= 1
