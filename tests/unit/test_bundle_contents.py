"""What is read of a bundle is what `hat.json` lists, as it was split, wherever it lies."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cloud_server.config import CloudConfig
from cloud_server.engines.vllm.bundle import run_bundle_workers
from device_runtime.text.chat_template import load_chat_template
from process.errors import StartError
from process.machine import CACHE_VARIABLE
from submodels.bundle import contents as bundle_contents
from submodels.bundle.bundle import load_bundle
from submodels.bundle.model_files import model_files
from submodels.errors import BundleError
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from submodels.tensors import file_hashes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    # Its parts are larger than what is hashed at every load.
    make_random_model(RandomModel(num_layers=3, hidden_size=256, vocab_size=4500), folder / "model")
    options = SplitOptions(
        str(folder / "model"), folder / "out", 1, onnx_weights=("float32", "int8")
    )
    split_checkpoint(options)
    return folder / "out"


@pytest.fixture
def bundles(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundles that the test may damage, and a cache of its own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return Path(shutil.copytree(whole, tmp_path / "out"))


def manifest_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "hat.json").read_text())
    return document


def rehash(folder: Path) -> None:
    """What somebody would do who changes a file and knows of `files` in the manifest."""
    document = manifest_of(folder)
    for name in document["files"]:
        content = (folder / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        document["files"][name] = {"num_bytes": len(content), "sha256": sha256}
    (folder / "hat.json").write_text(json.dumps(document))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 0x40
    path.write_bytes(content)


def settle(folder: Path) -> None:
    """Make the files old enough to be remembered."""
    for path in folder.rglob("*"):
        os.utime(path, ns=(1, 1))


LARGE = (
    ("device", "input.safetensors"),
    ("device", "head.int8.onnx"),
    ("cloud", "model.safetensors"),
)


@pytest.mark.parametrize(("role", "name"), LARGE)
def test_a_changed_bit_in_a_large_file_is_found_without_being_asked(
    bundles: Path, role: Any, name: str
) -> None:
    path = bundles / role / name
    assert path.stat().st_size > 1 << 20
    load_bundle(bundles, role)
    flip_a_bit(path)
    with pytest.raises(BundleError, match=f"{name} is corrupt"):
        load_bundle(bundles, role)


@pytest.mark.parametrize("name", ["input.safetensors", "output.safetensors", "model.safetensors"])
def test_changed_weights_do_not_load_under_the_old_fingerprint(bundles: Path, name: str) -> None:
    role: Any = "cloud" if name.startswith("model") else "device"
    flip_a_bit(bundles / role / name)
    rehash(bundles / role)
    with pytest.raises(BundleError, match=r"is corrupt: .* the fingerprint was made of"):
        load_bundle(bundles, role)


def test_changed_weights_with_their_own_hashes_have_another_fingerprint(bundles: Path) -> None:
    folder = bundles / "cloud"
    document = manifest_of(folder)
    source = "model.layers.1.self_attn.q_proj.weight"
    document["tensors"][source]["sha256"] = "0" * 64
    (folder / "hat.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="fingerprint: its tensors give"):
        load_bundle(folder, "cloud")


def test_a_version_of_a_file_is_hashed_once_and_another_one_again(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    hash_of = file_hashes.tensor_hash

    def counted(path: Path, info: Any) -> Any:
        hashed.append(path.name)
        return hash_of(path, info)

    monkeypatch.setattr(bundle_contents, "tensor_hash", counted)
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 0)

    def num_hashed(**options: Any) -> int:
        hashed.clear()
        load_bundle(bundles, "cloud", **options)
        return len(hashed)

    first = num_hashed()
    assert first > 0
    assert num_hashed() == 0
    assert num_hashed(verify=True) == first
    path = bundles / "cloud" / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert num_hashed() == first
    flip_a_bit(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(BundleError, match="corrupt"):
        load_bundle(bundles, "cloud")


def test_a_file_that_may_still_change_within_a_tick_is_not_remembered(bundles: Path) -> None:
    load_bundle(bundles, "cloud")
    assert not list((bundles.parent / "cache").rglob("*"))


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 0)
    monkeypatch.setenv(CACHE_VARIABLE, "/proc/nowhere")
    for _ in range(2):
        load_bundle(bundles, "cloud")


def test_hashing_that_takes_long_is_said_once(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_contents, "_LONG_BYTES", 1 << 20)
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 0)
    said: list[str] = []
    for _ in range(2):
        load_bundle(bundles, "cloud", say=said.append)
    [line] = said
    assert line.startswith("hashing 0.0 GB of ")


def test_what_is_not_listed_is_not_read(bundles: Path) -> None:
    folder = bundles / "device"
    (folder / "chat_template.jinja").write_text("not the model's {{ messages[0].content }}")
    load_bundle(folder, "device")
    assert load_chat_template(folder).is_plain
    assert load_bundle(folder, "device").unlisted() == ("chat_template.jinja",)
    (folder / "added_tokens.json").write_text("{}")
    assert model_files(folder).path("added_tokens.json") is None


@pytest.mark.parametrize("name", ["tokenizer_config.json", "input.safetensors", "hat.json"])
def test_a_link_out_of_the_folder_is_refused(bundles: Path, name: str) -> None:
    path = bundles / "device" / name
    path.rename(bundles / f"moved-{name}")
    path.symlink_to(bundles / f"moved-{name}")
    with pytest.raises(BundleError, match=f"{name} is a link out of the bundle's folder"):
        load_bundle(bundles, "device")


def test_links_inside_the_folder_and_to_the_folder_are_fine(bundles: Path) -> None:
    folder = bundles / "device"
    inner = folder / "..data"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(inner / path.name)
        path.symlink_to(Path("..data") / path.name)
    (bundles / "linked").symlink_to(folder)
    assert load_bundle(bundles / "linked", "device").manifest.role == "device"
    assert load_chat_template(bundles / "linked").is_plain


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_regular_files_are_read(bundles: Path, make: Any) -> None:
    path = bundles / "device" / "tokenizer_config.json"
    path.unlink()
    make(path)
    with pytest.raises(BundleError, match="not a regular file"):
        load_bundle(bundles, "device")


def external_model(path: Path, location: str) -> None:
    """A small ONNX model that keeps a weight in another file."""
    tensor = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    node = helper.make_node("Identity", ["w"], ["y"])
    graph = helper.make_graph([node], "g", [], [out], [tensor])
    path.write_bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("location", ["inside.bin", "../outside.bin", "/etc/hostname", "é" * 3])
def test_a_graph_reads_no_weights_from_files_that_are_not_listed(
    bundles: Path, location: str
) -> None:
    folder = bundles / "device"
    external_model(folder / "head.float32.onnx", location)
    (folder / "inside.bin").write_bytes(np.zeros(4, np.float32).tobytes())
    rehash(folder)
    with pytest.raises(BundleError, match=r"reads weights from .* does not list"):
        load_bundle(folder, "device")


def test_a_reference_in_another_spelling_is_refused_as_well(bundles: Path) -> None:
    folder = bundles / "device"
    path = folder / "head.float32.onnx"
    external_model(path, "inside.bin")
    whole_model = path.read_bytes()
    # The same length as a number of two bytes; the entry around it grows by one.
    spelled = whole_model.replace(b"\x0a\x08location", b"\x0a\x88\x00location")
    assert spelled != whole_model
    path.write_bytes(spelled)
    rehash(folder)
    with pytest.raises(BundleError, match="cannot be checked"):
        load_bundle(folder, "device")


def test_weights_in_a_listed_file_are_fine(bundles: Path) -> None:
    folder = bundles / "device"
    external_model(folder / "head.float32.onnx", "head.float32.onnx.data")
    (folder / "head.float32.onnx.data").write_bytes(bytes(16))
    document = manifest_of(folder)
    document["files"]["head.float32.onnx.data"] = {}
    (folder / "hat.json").write_text(json.dumps(document))
    rehash(folder)
    load_bundle(folder, "device")
    assert onnx.load(folder / "head.float32.onnx").graph.initializer[0].raw_data == bytes(16)


def test_an_engine_that_reads_whole_folders_is_given_none_with_other_files(bundles: Path) -> None:
    (bundles / "cloud" / "more.safetensors").write_bytes(b"")
    (bundles / "cloud" / ".hidden").write_bytes(b"")
    bundle = load_bundle(bundles, "cloud")
    with pytest.raises(StartError, match=r"more\.safetensors is not listed"):
        run_bundle_workers(bundle, CloudConfig(bundles, engine="vllm"))


def test_rotary_numbers_fit_the_parameters_that_the_fingerprint_covers(bundles: Path) -> None:
    folder = bundles / "cloud"
    document = manifest_of(folder)
    for change in (
        {"inv_freq": [2.0, *document["shape"]["rope"]["inv_freq"][1:]]},
        {"attention_scaling": 1.2},
    ):
        changed = json.loads(json.dumps(document))
        changed["shape"]["rope"] |= change
        (folder / "hat.json").write_text(json.dumps(changed))
        with pytest.raises(BundleError, match="rope: "):
            load_bundle(folder, "cloud")
