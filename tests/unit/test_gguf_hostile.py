"""GGUF files that lie: refused in one line, in bounded time and memory, and never a traceback."""

import os
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from submodels.checkpoint.checkpoint import CONFIG_FILE, read_json
from submodels.checkpoint.gguf.file import read_gguf
from submodels.checkpoint.gguf.tensors import gguf_tensors
from submodels.checkpoint.opening import opened_checkpoint
from submodels.errors import CheckpointError, SplitError
from submodels.plan.plan import read_model
from submodels.random_models import RandomModel, make_random_model
from tests.support.gguf_families import GGUF_FAMILIES
from tests.support.gguf_files import GgufSettings, write_gguf

HUGE = 1 << 60
_U32, _STRING, _ARRAY = 4, 8, 9


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def _setting(name: str, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def _begin(num_tensors: int, num_settings: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_settings)


def _array(of: int, count: int) -> bytes:
    return _setting("a", _ARRAY, struct.pack("<IQ", of, count))


def _tensor(name: str | bytes, *dimensions: int, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return _text(name) + sizes + struct.pack("<IQ", 0, offset)


_LLAMA = _setting("general.architecture", _STRING, _text("llama"))
_HEADERS = {
    "settings without end": _begin(0, HUGE),
    "tensors without end": _begin(HUGE, 0),
    "a text without end": _begin(0, 1) + struct.pack("<Q", HUGE),
    "a list without end": _begin(0, 1) + _array(_U32, HUGE),
    "texts without end": _begin(0, 1) + _array(_STRING, HUGE),
    "more bytes than there are numbers": _begin(0, 1) + _array(10, 1 << 63),
    "lists in lists": _begin(0, 1) + _array(_ARRAY, 1) + struct.pack("<IQ", _ARRAY, 1) * 1000,
    "a setting twice": _begin(0, 2) + _LLAMA + _LLAMA,
    "lines and colours": _begin(0, 1)
    + _setting("general.architecture", _STRING, _text("a\n\x1b[31m" * 999)),
    "a tensor twice": _begin(2, 1) + _LLAMA + _tensor("a", 1) * 2 + bytes(64),
    "a tensor outside": _begin(1, 1) + _LLAMA + _tensor("a", 32, offset=2**64 - 1),
    "a tensor larger than all": _begin(1, 1) + _LLAMA + _tensor("a", HUGE, HUGE, HUGE, HUGE),
    "a tensor of nothing": _begin(1, 1) + _LLAMA + _tensor("a", 32, 0) + bytes(64),
    "a tensor without dimensions": _begin(1, 1) + _LLAMA + _tensor("a"),
    "a tensor that is called like a file": _begin(1, 1) + _LLAMA + _tensor("../a\n", 1) + bytes(64),
    "a tensor of an endless name": _begin(1, 1) + _LLAMA + _tensor("a" * 999, 1) + bytes(64),
}


def _refused(path: Path) -> str:
    with pytest.raises(SplitError) as refused:
        _read(path)
    return str(refused.value)


def _read(path: Path) -> None:
    with opened_checkpoint(path) as checkpoint:
        read_model(read_json(checkpoint.folder / CONFIG_FILE))


def _complaint(path: Path) -> str | None:
    try:
        _read(path)
    except SplitError as error:
        return str(error)
    return None


def _is_one_line(text: str) -> bool:
    return text.isprintable() and len(text) < 500


@pytest.mark.parametrize("header", _HEADERS.values(), ids=_HEADERS)
def test_a_header_that_lies_is_refused_in_one_line(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(header)
    assert _is_one_line(_refused(path))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("a text without end", "its header goes on after 64 MiB"),
        ("a list without end", "its header goes on after 64 MiB"),
        ("settings without end", "the setting '' twice"),
        ("tensors without end", "a tensor is called ''"),
    ],
)
def test_a_terabyte_of_zeros_behind_it_is_not_read(tmp_path: Path, header: str, said: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(_HEADERS[header].replace(struct.pack("<Q", HUGE), struct.pack("<Q", 1 << 32)))
    os.truncate(path, 1 << 40)
    assert said in _refused(path)


@pytest.mark.parametrize("numbers", ["00001-of-00000", "00000-of-00000", "00009-of-00003"])
def test_a_name_that_is_no_part_of_any_model_is_a_file(tmp_path: Path, numbers: str) -> None:
    path = tmp_path / f"a-{numbers}.gguf"
    path.write_bytes(_begin(0, 1) + _LLAMA)
    assert "embedding_length" in _refused(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_random_model(RandomModel(num_layers=1), folder)
    return folder


_ODD: tuple[Any, ...] = (
    0,
    2**32 - 1,
    float("nan"),
    float("inf"),
    0.0,
    -3e38,
    True,
    "",
    "x\n",
    ["a"],
    [1, 2],
    [float("nan")],
)
_SETTINGS = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "general.sampling.temp",
    "general.alignment",
)


def _odd_values() -> Iterator[tuple[str, Any]]:
    for name in _SETTINGS:
        yield from ((name, value) for value in _ODD)


def test_a_setting_of_any_type_and_value_is_read_or_refused(model: Path, tmp_path: Path) -> None:
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0}
    path = tmp_path / "a.gguf"
    complaints = []
    for name, value in _odd_values():
        if name == "general.alignment" and value == 0:
            continue  # the writer divides by it
        write_gguf(model, path, GgufSettings(settings={**yarn, name: value}))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            complaints.append(_complaint(path))
    refusals = [said for said in complaints if said is not None]
    assert all(map(_is_one_line, refusals)), refusals
    assert len(refusals) > len(_SETTINGS)


_OF_FAMILIES = {
    "gpt-oss": (
        *("expert_count", "expert_used_count", "expert_feed_forward_length", "block_count"),
        *("attention.sliding_window", "attention.sliding_window_pattern", "expert_gating_func"),
    ),
    "gemma3": ("rope.freq_base_swa", "final_logit_softcapping", "attention.sliding_window_pattern"),
    "gemma4 with experts": (
        *("attention.head_count_kv", "attention.key_length", "attention.key_length_swa"),
        *("attention.shared_kv_layers", "embedding_length_per_layer_input"),
        *("expert_count", "expert_feed_forward_length"),
    ),
    "granite": ("attention.scale", "embedding_scale", "residual_scale", "logit_scale"),
    "phi4-mini with LongRoPE": (
        *("rope.dimension_count", "rope.scaling.attn_factor", "context_length"),
        "rope.scaling.original_context_length",
    ),
    "ministral 3": ("attention.temperature_scale", "rope.scaling.yarn_log_multiplier"),
}


@pytest.mark.parametrize("family", _OF_FAMILIES)
def test_a_setting_of_a_family_is_read_or_refused_whatever_it_says(
    tmp_path: Path, family: str
) -> None:
    architecture, random_model = GGUF_FAMILIES[family]
    make_random_model(random_model, tmp_path / "model")
    path, complaints = tmp_path / "a.gguf", []
    for name in _OF_FAMILIES[family]:
        for value in _ODD:
            write_gguf(
                tmp_path / "model", path, GgufSettings(Kind.F32, architecture, {name: value})
            )
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                complaints.append(_complaint(path))
    refusals = [said for said in complaints if said is not None]
    assert all(map(_is_one_line, refusals)), refusals
    assert len(refusals) > len(_OF_FAMILIES[family])


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("ffn_gate_exps.weight", (4, 96, 64), "expected 5 experts, got the shape (4, 96, 64)"),
        ("ffn_gate_exps.weight", (64,), "expected 5 experts, got the shape (64,)"),
        ("ffn_up_exps.weight", (5, 95, 64), "differ in shape or format"),
    ],
)
def test_experts_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], said: str
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "gpt-oss")
    writer.add_uint32("gpt-oss.expert_count", 5)
    shapes = {f"ffn_{kind}_exps.weight": (5, 96, 64) for kind in ("gate", "up")}
    for own_name, size in {**shapes, name: shape}.items():
        writer.add_tensor(f"blk.0.{own_name}", np.zeros(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=re.escape(said)):
        gguf_tensors(read_gguf(tmp_path / "a.gguf"), 16)


@pytest.mark.parametrize(
    "factors",
    [[np.nan] * 8, [0.0] * 8, [np.inf] * 8, [-1.0] * 8, [1, 1, 1, 1, 2, 3, np.inf, np.inf]],
)
def test_impossible_rope_factors_are_refused(
    model: Path, tmp_path: Path, factors: list[float]
) -> None:
    tensors = {"rope_freqs.weight": np.array(factors, np.float32)}
    write_gguf(model, tmp_path / "a.gguf", GgufSettings(tensors=tensors))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _is_one_line(_refused(tmp_path / "a.gguf"))


def test_more_tokens_than_embeddings_are_refused(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "a.gguf")
    whole = (tmp_path / "a.gguf").read_bytes()
    # The embedding's rows stand after its name and the length of a row.
    place = whole.index(b"token_embd.weight") + len(b"token_embd.weight") + 12
    rows = struct.unpack_from("<Q", whole, place)[0]
    (tmp_path / "a.gguf").write_bytes(
        whole[:place] + struct.pack("<Q", rows - 1) + whole[place + 8 :]
    )
    said = _refused(tmp_path / "a.gguf")
    assert f"has {rows} tokens, but {rows - 1} embeddings" in said


def test_two_tensors_for_one_name_are_refused(model: Path, tmp_path: Path) -> None:
    extra = {"model.norm.weight": np.ones(64, np.float32)}
    write_gguf(model, tmp_path / "a.gguf", GgufSettings(tensors=extra))
    assert "holds model.norm.weight under two names" in _refused(tmp_path / "a.gguf")


def test_a_scale_that_is_no_number_is_refused_with_its_tensor(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(model, path, GgufSettings(kind=Kind.Q8_0))
    stored = read_gguf(path).tensors["blk.0.attn_output.weight"]
    data = bytearray(path.read_bytes())
    data[stored.start : stored.start + 2] = np.float16("inf").tobytes()
    path.write_bytes(data)
    tensor = gguf_tensors(read_gguf(path), 4)["model.layers.0.self_attn.o_proj.weight"]
    with pytest.raises(CheckpointError, match=r"o_proj\.weight holds blocks whose scale is no"):
        list(tensor.pieces())
