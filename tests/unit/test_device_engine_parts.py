"""The pieces of the device engine: caches that grow, angles, long runs, and loading errors."""

import dataclasses
import gc
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.config import DeviceConfig
from device_runtime.engines import onnx_stack
from device_runtime.engines.attention_memory import (
    KvBuffers,
    KvShape,
    RotaryTables,
    rotary_tables,
)
from device_runtime.engines.engine import SequenceId
from device_runtime.engines.loading import load_engine
from device_runtime.engines.onnx_engine import load_onnx_engine
from device_runtime.engines.onnx_sessions import open_session
from device_runtime.engines.submodel_engine import SubmodelEngine
from process.errors import StartError
from submodels.bundle.layers import rope_table
from submodels.errors import BundleError
from submodels.manifest import Rope
from submodels.random_models import RandomModel, make_random_model
from tests.support.device_engines import rows_in_chunks
from tests.support.split_models import random_tokens, split


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model split with int8 ONNX weights only."""
    folder = tmp_path_factory.mktemp("engines")
    make_random_model(RandomModel(), folder / "model")
    split(folder / "model", folder / "bundle", 1, 1, onnx_weights=("int8",))
    return folder / "bundle"


@given(max_tokens=st.integers(1, 5000), num_tokens=st.integers(0, 5000))
def test_capacity_is_enough_and_never_above_the_context(max_tokens: int, num_tokens: int) -> None:
    num_tokens = min(num_tokens, max_tokens)
    capacity = KvShape(((1, 16),), max_tokens).capacity_for(num_tokens)
    assert num_tokens <= capacity <= max_tokens
    assert capacity <= max(256, 4 * num_tokens)


@given(writes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 400)), max_size=8))
def test_buffers_keep_what_was_written_through_growth_and_forks(
    writes: list[tuple[float, int]],
) -> None:
    """Against a list of the numbers written."""
    layers = ((1, 16), (2, 8))
    buffers = KvBuffers(KvShape(layers, 4096))
    held: list[int] = []
    for number, (where, num_new) in enumerate(writes, start=1):
        position = int(where * len(held))
        end = position + num_new
        buffers.reserve(position, end)
        for array in buffers.arrays:
            array[:, :, position:end] = number
        buffers.num_tokens = end
        held = held[:position] + [number] * num_new
    copy = buffers.fork(len(held) // 2)
    for one, num_tokens in ((buffers, len(held)), (copy, len(held) // 2)):
        assert one.num_tokens == num_tokens <= one.capacity
        for index, array in enumerate(one.arrays):
            num_heads, head_dim = layers[index // 2]
            assert array.shape == (1, num_heads, one.capacity, head_dim)
            assert array[0, 0, :num_tokens, 0].tolist() == held[:num_tokens]


def test_angles_are_the_reference_layers() -> None:
    rope = Rope(inv_freq=tuple(10000.0 ** (-i / 8) for i in range(8)), attention_scaling=1.3)
    cos, sin = rotary_tables(rope, 5000, 16)
    expected_cos, expected_sin = rope_table(rope, torch.arange(5000), torch.float32)
    np.testing.assert_allclose(cos[:, :8], expected_cos[:, :8].numpy(), atol=3e-7)
    np.testing.assert_allclose(sin[:, :8], expected_sin[:, :8].numpy(), atol=3e-7)


def test_tables_are_made_once_per_capacity() -> None:
    tables = RotaryTables((Rope(inv_freq=(1.0, 0.1)),), 4096)
    assert tables.up_to(256, 8)[0] is tables.up_to(256, 8)[0]
    assert tables.up_to(1024, 8)[0].shape == (1024, 8)


def test_a_long_run_in_pieces_gives_the_same_rows(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_onnx_engine(bundle, "int8", 1, None)
    tokens = random_tokens(100, engine.vocab_size)
    whole = engine.input_rows(engine.open(), tokens, 0)
    monkeypatch.setattr(onnx_stack, "rows_per_run", lambda *_: 16)
    pieces = engine.input_rows(engine.open(), tokens, 0)
    chunks = rows_in_chunks(engine, engine.open(), tokens, 16)
    np.testing.assert_array_equal(pieces, chunks)
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=0.05)


def test_runs_are_cut_where_attention_would_need_too_much_memory() -> None:
    assert onnx_stack.rows_per_run(num_heads=4, num_positions=1 << 12) == 1 << 10
    assert onnx_stack.rows_per_run(num_heads=32, num_positions=1 << 24) == 16


def test_releasing_frees_the_memory(bundle: Path) -> None:
    engine = load_onnx_engine(bundle, "int8", 1, None)
    tokens = random_tokens(300, engine.vocab_size)
    engine.release(_filled(engine, tokens))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    sequences = [_filled(engine, tokens) for _ in range(4)]
    held = tracemalloc.get_traced_memory()[0] - before
    for sequence in sequences:
        engine.release(sequence)
    gc.collect()
    left = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # Keys and values of 512 positions, 2 heads of 16, one input layer, in float32.
    assert held >= 4 * 2 * 512 * 2 * 16 * 4
    assert left < held / 20


def test_a_context_below_the_models_bounds_sequences(bundle: Path) -> None:
    engine = load_onnx_engine(bundle, "int8", 1, 20)
    assert engine.max_context_tokens == 20
    sequence = engine.open()
    assert len(engine.input_rows(sequence, [1] * 20, 0)) == 20
    with pytest.raises(ValueError, match="at most 20 positions, got 1 rows at 20"):
        engine.input_rows(sequence, [1], 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_model_len": 513}, "max_context_tokens: expected 1 to 512, got 513"),
        ({"max_model_len": 0}, "max_context_tokens: expected 1 to 512, got 0"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_settings_that_do_not_fit_are_refused(
    bundle: Path, engine: str, change: dict[str, int], message: str
) -> None:
    config = _config(bundle, engine=engine, **change)
    with pytest.raises(StartError, match=message):
        load_engine(config)


def test_weights_that_were_not_split_are_named_with_the_way_out(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no .*float32\.onnx: .* has int8; split again"):
        load_engine(_config(bundle, weights="float32"))


def test_a_file_that_is_no_graph_is_a_bundle_error(tmp_path: Path) -> None:
    path = tmp_path / "input.int8.onnx"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(BundleError, match=r"ONNX Runtime cannot load .*input\.int8\.onnx"):
        open_session(path, 1)


@pytest.mark.parametrize(
    ("engine", "module", "extra"),
    [("onnx", "onnxruntime", "device"), ("torch", "torch", "cloud")],
)
def test_a_missing_library_is_named_with_its_extra(
    bundle: Path, engine: str, module: str, extra: str
) -> None:
    code = f"""
import sys
from pathlib import Path
sys.modules[{module!r}] = None
from device_runtime.config import DeviceConfig
from device_runtime.engines.loading import load_engine
from process.errors import StartError
try:
    load_engine(DeviceConfig(Path({str(bundle)!r}), engine={engine!r}))
except StartError as error:
    print(error)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert f"cannot import {module}" in output.stdout
    assert f"hat-serving[{extra}]" in output.stdout


def test_the_onnx_engine_runs_without_torch(bundle: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from device_runtime.engines.onnx_engine import load_onnx_engine
engine = load_onnx_engine(Path({str(bundle)!r}), "int8", 1, None)
engine.logits(engine.open(), engine.input_rows(engine.open(), [1, 2], 0), 0, 1)
print([name for name in ("torch", "transformers", "onnx", "safetensors") if name in sys.modules])
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def _config(bundle: Path, **changes: object) -> DeviceConfig:
    config = DeviceConfig(bundle, weights="int8", threads=1)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _filled(engine: SubmodelEngine, tokens: tuple[int, ...]) -> SequenceId:
    sequence = engine.open()
    engine.input_rows(sequence, tokens, 0)
    return sequence
