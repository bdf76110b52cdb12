"""Reading checkpoints and finding them: complete ones are read in pieces, others are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from submodels.checkpoint.checkpoint import open_checkpoint
from submodels.checkpoint.gguf.names import part_paths
from submodels.checkpoint.hub import model_name, resolve_model
from submodels.errors import CheckpointError
from submodels.tensors.tensor_file import TensorFile, TensorFileError

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def _sharded(folder: Path, shards: dict[str, list[str]], weight_map: dict[str, str]) -> None:
    for file_name, names in shards.items():
        save_file(dict.fromkeys(names, ROWS), folder / file_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_pieces_are_bounded_and_add_up_to_the_tensor(tmp_path: Path) -> None:
    save_file({"a": ROWS, "b": ROWS + 1}, tmp_path / "model.safetensors")
    tensor = open_checkpoint(tmp_path).tensors["b"]
    pieces = list(tensor.pieces(piece_bytes=10))
    assert [len(piece) for piece in pieces] == [10, 10, 10, 10, 8]
    assert b"".join(pieces) == (ROWS + 1).tobytes()


def test_shards_are_read_as_one_checkpoint(tmp_path: Path) -> None:
    _sharded(
        tmp_path, {"1.safetensors": ["a"], "2.safetensors": ["b"]},
        {"a": "1.safetensors", "b": "2.safetensors"},
    )  # fmt: skip
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.tensors) == {"a", "b"}
    assert checkpoint.tensors["b"].path.name == "2.safetensors"
    assert checkpoint.same_bytes("a", "b")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    _sharded(tmp_path, {"1.safetensors": ["a"]}, {"a": "1.safetensors", "b": "2.safetensors"})
    with pytest.raises(CheckpointError, match=r"2\.safetensors: No such file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["../1.safetensors", "a/../../1.safetensors", "/1.safetensors"])
def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    _sharded(tmp_path, {}, {"a": name})
    with pytest.raises(CheckpointError, match="not a file below"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_an_index_that_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        open_checkpoint(tmp_path)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_truncated_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": ROWS}, path)
    whole = path.read_bytes()
    for length in (0, 7, 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="corrupt or truncated"):
            open_checkpoint(tmp_path)


def test_a_file_that_shrinks_after_opening_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": ROWS}, path)
    tensor = open_checkpoint(tmp_path).tensors["a"]
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(CheckpointError, match="ends inside the tensor a"):
        list(tensor.pieces())


def test_only_number_formats_of_weights_are_read(tmp_path: Path) -> None:
    save_file({"a": np.arange(4)}, tmp_path / "x.safetensors")
    with pytest.raises(TensorFileError, match="a is I64"):
        TensorFile(tmp_path / "x.safetensors").read("a")


def test_reading_a_tensor_makes_no_copy(tmp_path: Path) -> None:
    save_file({"a": ROWS}, tmp_path / "x.safetensors")
    array = TensorFile(tmp_path / "x.safetensors").read("a")
    assert np.array_equal(array, ROWS)
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path
    assert model_name(str(tmp_path)) == tmp_path.name


@pytest.mark.parametrize("model", ["/no/such/folder", "./missing", "a/b/c", ""])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError, match="expected a folder"):
        resolve_model(model)


def _resolve_offline(hub_id: str, cache: Path) -> str:
    """In a fresh process, since the hub client reads its settings when imported."""
    program = (
        "import sys\n"
        "from submodels.checkpoint.hub import resolve_model\n"
        "from submodels.errors import CheckpointError\n"
        "try:\n"
        "    print(resolve_model(sys.argv[1]))\n"
        "except CheckpointError as error:\n"
        "    print('refused:', error)\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, hub_id]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_cached_hub_model_is_found_offline(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    assert _resolve_offline("someone/tiny", tmp_path) == str(snapshot)


def test_a_hub_model_that_is_not_cached_is_refused_offline(tmp_path: Path) -> None:
    said = _resolve_offline("someone/absent", tmp_path)
    assert said.startswith("refused: someone/absent: no such folder, not in the local hub cache")


def _cached_hub(cache: Path, *names: str) -> Path:
    """A snapshot of someone/tiny with files of these names."""
    repository = cache / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    for name in names:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(b"GGUF")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return snapshot


GGUF_FILES = (
    "tiny-Q4_K_M.gguf",
    "tiny-q8_0.gguf",
    "tiny-BF16.gguf",
    "tiny-F16.gguf",
    "mmproj-F16.gguf",
    "large/tiny-Q6_K-00001-of-00002.gguf",
    "large/tiny-Q6_K-00002-of-00002.gguf",
)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("someone/tiny/tiny-Q4_K_M.gguf", "tiny-Q4_K_M.gguf"),
        ("someone/tiny:Q4_K_M", "tiny-Q4_K_M.gguf"),
        ("someone/tiny:q4_k_m", "tiny-Q4_K_M.gguf"),
        ("hf.co/someone/tiny:Q8_0", "tiny-q8_0.gguf"),
        ("https://huggingface.co/someone/tiny:F16", "tiny-F16.gguf"),
        ("someone/tiny:Q6_K", "large/tiny-Q6_K-00001-of-00002.gguf"),
        (
            "someone/tiny/large/tiny-Q6_K-00002-of-00002.gguf",
            "large/tiny-Q6_K-00001-of-00002.gguf",
        ),
    ],
)
def test_a_cached_hub_file_is_found_by_its_name_or_quantisation(
    tmp_path: Path, asked: str, found: str
) -> None:
    snapshot = _cached_hub(tmp_path, *GGUF_FILES)
    assert _resolve_offline(asked, tmp_path) == str(snapshot / found)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("someone/tiny:Q5_0", "one GGUF model of the quantisation Q5_0, found none"),
        ("someone/tiny/other.gguf", "someone/tiny has no file other.gguf"),
        ("someone/absent:Q4_0", "not in the local hub cache"),
    ],
)
def test_a_hub_file_that_is_not_there_is_refused(tmp_path: Path, asked: str, said: str) -> None:
    _cached_hub(tmp_path, *GGUF_FILES)
    assert said in _resolve_offline(asked, tmp_path)


def test_a_folder_with_one_gguf_model_is_that_model(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"")
    (tmp_path / "mmproj-a.gguf").write_bytes(b"")
    assert resolve_model(str(tmp_path)) == tmp_path / "a.gguf"
    assert resolve_model(str(tmp_path / "a.gguf")) == tmp_path / "a.gguf"
    assert model_name(str(tmp_path / "a.gguf")) == "a"
    (tmp_path / "b-00001-of-00002.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"2 GGUF models; name one: a\.gguf, b-00001-of"):
        resolve_model(str(tmp_path))


def test_a_gguf_file_may_be_called_in_capitals(tmp_path: Path) -> None:
    names = [f"M-0000{number}-of-00002.GGUF" for number in (1, 2)]
    for name in names:
        (tmp_path / name).write_bytes(b"GGUF")
    assert resolve_model(str(tmp_path / names[1])) == tmp_path / names[1]
    assert [path.name for path in part_paths(tmp_path / names[1])] == names
    assert model_name(str(tmp_path / names[0])) == "M"
