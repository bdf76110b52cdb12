"""Reading GGUF files: whole ones in pieces, parts together, and what is refused by name."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from submodels.checkpoint.checkpoint import CONFIG_FILE
from submodels.checkpoint.gguf.file import read_gguf
from submodels.checkpoint.gguf.tensors import gguf_tensors
from submodels.checkpoint.opening import opened_checkpoint
from submodels.errors import CheckpointError, SplitError, UnsupportedModelError
from submodels.random_models import RandomModel, make_random_model
from tests.support.gguf_files import GgufSettings, write_gguf
from tests.support.split_models import split

DEQUANTISED = [kind for kind in Kind if kind.name[:2] in ("Q2", "Q3", "Q4", "Q5", "Q6", "IQ", "TQ")]
DEQUANTISED += [Kind.Q8_0, Kind.MXFP4, *(k for k in Kind if k.name == "NVFP4")]
REFUSED = (Kind.F64, Kind.I8, Kind.I32, Kind.Q8_1, Kind.Q8_K)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_random_model(RandomModel(num_layers=2), folder)
    return folder


def _settings(**settings: Any) -> GgufSettings:
    return GgufSettings(settings={name.replace("__", "."): v for name, v in settings.items()})


def _open(path: Path) -> dict[str, Any]:
    with opened_checkpoint(path) as checkpoint:
        config: dict[str, Any] = json.loads((checkpoint.folder / CONFIG_FILE).read_text())
        return config


def _one_tensor(path: Path, data: np.ndarray, kind: Kind, name: str = "token_embd.weight") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", DEQUANTISED, ids=lambda kind: kind.name)
def test_blocks_become_what_the_package_of_llama_cpp_makes_of_them(
    tmp_path: Path, kind: Kind
) -> None:
    block_numbers, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    # Six bits: no scale in float16 is then infinite or no number.
    generator = np.random.default_rng(3)
    raw = generator.integers(0, 64, (12, 2 * block_bytes), dtype=np.uint8)
    path = _one_tensor(tmp_path / "a.gguf", raw, kind)
    tensor = gguf_tensors(read_gguf(path), 4)["model.embed_tokens.weight"]
    assert (tensor.dtype, tensor.shape) == ("F32", (12, 2 * block_numbers))
    pieces = list(tensor.pieces(piece_bytes=5 * 4 * 2 * block_numbers))
    assert len(pieces) == 3
    assert b"".join(pieces) == dequantize(raw, kind).tobytes()
    assert tensor.num_bytes == sum(map(len, pieces))


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.name)
def test_a_format_that_the_package_cannot_read_is_refused_by_name(
    tmp_path: Path, kind: Kind
) -> None:
    block_bytes = gguf.GGML_QUANT_SIZES[kind][1]
    path = _one_tensor(tmp_path / "a.gguf", np.zeros((1, block_bytes), np.uint8), kind)
    with pytest.raises(UnsupportedModelError, match=f"are {kind.name}, which the gguf package"):
        gguf_tensors(read_gguf(path), 4)


def test_rows_of_queries_are_reordered_head_by_head_whatever_the_piece(tmp_path: Path) -> None:
    in_order = np.arange(24 * 32, dtype=np.float32).reshape(24, 32)
    # Heads of 8 rows, the halves of each in turn.
    as_kept = in_order.reshape(3, 2, 4, 32).swapaxes(1, 2).reshape(24, 32)
    path = _one_tensor(tmp_path / "a.gguf", as_kept, Kind.F32, "blk.0.attn_q.weight")
    tensor = gguf_tensors(read_gguf(path), 8)["model.layers.0.self_attn.q_proj.weight"]
    for piece_bytes in (1, 9 * 128, 1 << 20):
        assert b"".join(tensor.pieces(piece_bytes)) == in_order.tobytes()


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    raw = np.zeros((16_384, 64 * 34), np.uint8)
    path = _one_tensor(tmp_path / "a.gguf", raw, Kind.Q8_0)
    tensor = gguf_tensors(read_gguf(path), 4)["model.embed_tokens.weight"]
    del raw
    tracemalloc.start()
    num_bytes = sum(len(piece) for piece in tensor.pieces(1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_bytes == 16_384 * 64 * 32 * 4
    assert peak < 8 << 20


def test_a_file_that_shrinks_after_opening_is_refused(tmp_path: Path) -> None:
    path = _one_tensor(tmp_path / "a.gguf", np.zeros((64, 64), np.float32), Kind.F32)
    tensor = gguf_tensors(read_gguf(path), 4)["model.embed_tokens.weight"]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8)
    with pytest.raises(CheckpointError, match=r"ends inside the tensor model\.embed_tokens"):
        list(tensor.pieces())


def test_a_file_cut_anywhere_is_refused(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "whole.gguf")
    whole = (tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    lengths = [*range(40), *range(40, 9000, 97), len(whole) // 2, len(whole) - 1]
    for length in lengths:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"truncated|not a GGUF file|cannot read"):
            read_gguf(cut)


def test_changed_bytes_in_the_header_are_read_or_refused(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "whole.gguf")
    whole = (tmp_path / "whole.gguf").read_bytes()
    generator = np.random.default_rng(5)
    changed = tmp_path / "changed.gguf"
    for _ in range(300):
        data = bytearray(whole)
        data[int(generator.integers(4, 12_000))] = int(generator.integers(256))
        changed.write_bytes(data)
        try:
            _open(changed)
        except SplitError:
            continue


def test_a_model_in_parts_is_read_from_any_of_them(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "one.gguf")
    write_gguf(model, tmp_path / "many.gguf", GgufSettings(max_tensors_per_file=7))
    parts = sorted(tmp_path.glob("many-*.gguf"))
    assert [path.name for path in parts][:1] == ["many-00001-of-00003.gguf"]
    one = split(tmp_path / "one.gguf", tmp_path / "one", 1)
    for path in (parts[0], parts[2]):
        many = split(path, tmp_path / "out", 1, overwrite=True)
        assert many.device.fingerprint == one.device.fingerprint
        assert many.device.model_name == "many"


def test_missing_and_renamed_parts_are_named(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "many.gguf", GgufSettings(max_tensors_per_file=7))
    first, second, third = sorted(tmp_path.glob("many-*.gguf"))
    second.rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"1 of them missing: many-00002-of-00003\.gguf"):
        _open(first)
    (tmp_path / "away").rename(second)
    third.write_bytes(second.read_bytes())
    with pytest.raises(CheckpointError, match="is both in many-00002-of-00003"):
        _open(first)
    first.rename(tmp_path / "alone.gguf")
    with pytest.raises(CheckpointError, match="is one of 3 files; expected names that end in"):
        _open(tmp_path / "alone.gguf")


def test_big_endian_files_and_other_versions_are_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for version, said in (((3).to_bytes(4, "big"), "big-endian"), (b"\1\0\0\0", "version 1")):
        path.write_bytes(b"GGUF" + version + bytes(64))
        with pytest.raises(UnsupportedModelError, match=said):
            read_gguf(path)
    path.write_bytes(b"PK\3\4" + bytes(64))
    with pytest.raises(CheckpointError, match="does not begin with GGUF"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"expert_shared_count": 1}, r"llama\.expert_shared_count is 1, which is not supported"),
        ({"expert_count": 8}, r"expected llama\.expert_used_count as one number, got None"),
        ({"expert_gating_func": 2}, r"llama\.expert_gating_func is 2"),
        ({"attention__causal": False}, r"llama\.attention\.causal is False"),
        ({"attention__sliding_window": 128}, "a sliding window is not supported in llama files"),
        ({"rope__dimension_count": 8}, r"rope\.dimension_count is 8, expected that of keys, 16"),
        ({"rope__scaling__type": "longrope", "rope__scaling__factor": 2.0}, "scaling 'longrope'"),
        ({"attention__layer_norm_rms_epsilon": "no"}, "expected llama.* as a number, got 'no'"),
        ({"block_count": "two"}, r"expected llama\.block_count as one number, got 'two'"),
        ({"attention__head_count_kv": [2, 4]}, "head_count_kv as one number"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    model: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    write_gguf(model, tmp_path / "a.gguf", _settings(**settings))
    with pytest.raises(SplitError, match=said):
        _open(tmp_path / "a.gguf")


def test_another_architecture_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "a.gguf")
    whole = (tmp_path / "a.gguf").read_bytes()
    (tmp_path / "a.gguf").write_bytes(whole.replace(b"llama", b"plamo"))
    with pytest.raises(UnsupportedModelError, match="architecture 'plamo' is not supported"):
        _open(tmp_path / "a.gguf")


def test_unknown_and_missing_tensors_are_named(model: Path, tmp_path: Path) -> None:
    extra = {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    write_gguf(model, tmp_path / "a.gguf", GgufSettings(tensors=extra))
    with pytest.raises(CheckpointError, match=r"holds unknown tensors .*blk\.0\.attn_sinks"):
        split(tmp_path / "a.gguf", tmp_path / "out", 1)
    write_gguf(model, tmp_path / "b.gguf", _settings(block_count=3))
    with pytest.raises(CheckpointError, match=r"lacks tensors .*model\.layers\.2"):
        split(tmp_path / "b.gguf", tmp_path / "out", 1)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, {"rope_type": "default", "rope_theta": 10000.0}),
        ({"rope__freq_base": 1e6}, {"rope_type": "default", "rope_theta": 1e6}),
        (
            {"rope__scaling__type": "linear", "rope__scaling__factor": 2.5},
            {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        ),
        ({"rope__scale_linear": 4.0}, {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
        (
            {"rope__scaling__type": "none", "rope__scaling__factor": 2.5},
            {"rope_type": "default", "rope_theta": 10000.0},
        ),
        (
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 128,
            },
            {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        ),
    ],
)
def test_rope_settings_are_read(
    model: Path, tmp_path: Path, settings: dict[str, Any], parameters: dict[str, Any]
) -> None:
    write_gguf(model, tmp_path / "a.gguf", _settings(**settings))
    assert _open(tmp_path / "a.gguf")["rope_parameters"] == parameters


def test_rope_factors_of_another_kind_are_refused(model: Path, tmp_path: Path) -> None:
    factors = np.array([1, 2, 1.5, 3, 3, 3, 3, 3], np.float32)
    how = GgufSettings(tensors={"rope_freqs.weight": factors})
    write_gguf(model, tmp_path / "a.gguf", how)
    with pytest.raises(UnsupportedModelError, match="not those of Llama 3's scaling"):
        _open(tmp_path / "a.gguf")


def test_numbers_are_the_decimals_that_were_meant(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "a.gguf", _settings(attention__layer_norm_rms_epsilon=1e-5))
    assert _open(tmp_path / "a.gguf")["rms_norm_eps"] == 1e-5
