"""A bundle is used only when it is whole, of the right role, and of a known format."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from submodels.bundle.bundle import load_bundle
from submodels.errors import BundleError
from submodels.random_models import RandomModel, make_random_model
from submodels.tensors.tensor_layout import Part
from tests.support.split_models import split


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    make_random_model(RandomModel("qwen3", num_layers=3), folder / "model")
    split(folder / "model", folder / "out", 1, 1)
    return folder / "out"


@pytest.fixture
def bundles(whole: Path, tmp_path: Path) -> Path:
    """Bundles that the test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def _change(folder: Path, **changes: Any) -> None:
    path = folder / "hat.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bundle_is_found_in_its_own_folder_and_in_the_one_above(whole: Path) -> None:
    assert load_bundle(whole, "device", verify=True).path == whole / "device"
    assert load_bundle(whole / "device", "device").path == whole / "device"
    assert load_bundle(whole, "cloud", verify=True).manifest.role == "cloud"


def test_what_is_not_a_bundle_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no cloud bundle at .*: expected hat\.json there"):
        load_bundle(tmp_path, "cloud")


def test_the_other_role_is_refused(whole: Path) -> None:
    with pytest.raises(BundleError, match="is a device bundle, expected a cloud bundle"):
        load_bundle(whole / "device", "cloud")


def test_a_newer_format_is_refused_before_its_fields_are_read(bundles: Path) -> None:
    (bundles / "cloud" / "hat.json").write_text('{"format_version": 3, "new": "things"}')
    with pytest.raises(BundleError, match="format version 3, this program reads up to 2"):
        load_bundle(bundles, "cloud")


def test_an_older_format_is_refused_with_what_to_do(bundles: Path) -> None:
    (bundles / "cloud" / "hat.json").write_text('{"format_version": 1, "old": "things"}')
    with pytest.raises(BundleError, match=r"format version 1.*split again"):
        load_bundle(bundles, "cloud")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format_version": "1"}',
        "{}",
        '{"format_version": 2}',
        "\xff",
        "[" * 10**6,
    ],
)
def test_a_manifest_that_is_none_is_refused(bundles: Path, text: str) -> None:
    (bundles / "cloud" / "hat.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match=r"hat\.json"):
        load_bundle(bundles, "cloud")


def test_unknown_fields_are_refused(bundles: Path) -> None:
    _change(bundles / "device", surprise=1)
    with pytest.raises(BundleError, match="surprise"):
        load_bundle(bundles, "device")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(bundles: Path, name: str) -> None:
    (bundles / "cloud" / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_bundle(bundles, "cloud")


def test_a_truncated_file_is_refused(bundles: Path) -> None:
    path = bundles / "device" / "input.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"input\.safetensors: expected \d+ bytes, found \d+"):
        load_bundle(bundles, "device")


def test_a_flipped_bit_is_found_when_verifying(bundles: Path) -> None:
    path = bundles / "device" / "input.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"input\.safetensors is corrupt: .* has SHA-256"):
        load_bundle(bundles, "device", verify=True)


def test_a_changed_small_file_is_found_on_every_load(bundles: Path) -> None:
    path = bundles / "device" / "tokenizer_config.json"
    path.write_text(path.read_text().replace("</s>", "<_s>"))
    with pytest.raises(BundleError, match=r"tokenizer_config\.json is corrupt"):
        load_bundle(bundles, "device")


@pytest.mark.parametrize("name", ["../model/config.json", "/etc/hostname", "a/b", "..", "", "."])
def test_a_manifest_cannot_name_files_elsewhere(bundles: Path, name: str) -> None:
    files = json.loads((bundles / "cloud" / "hat.json").read_text())["files"]
    _change(bundles / "cloud", files=files | {name: {"num_bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match="not a plain file name"):
        load_bundle(bundles, "cloud")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_input_layers": 3}, "at least one middle layer"),
        ({"num_output_layers": -1}, "expected 0 or more"),
        ({"num_input_layers": 0}, "tensors do not match"),
        ({"fingerprint": "xyz"}, "fingerprint: its tensors give"),
        ({"tensors": {}}, "fingerprint: its tensors give"),
        ({"files": {}}, "does not list"),
        ({"dtype": "int3"}, "dtype"),
        ({"role": "cleaner"}, "role"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    bundles: Path, changes: dict[str, Any], message: str
) -> None:
    _change(bundles / "device", **changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundles, "device")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 10**12}, "num_layers"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"sliding_windows": [None]}, "sliding windows"),
        ({"sliding_windows": [None, 0, None]}, "sliding window"),
        ({"num_key_value_heads": 3}, "multiple of key-value heads"),
        ({"head_dim": 6}, "frequencies"),
        ({"hidden_size": 72}, "fingerprint"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
    ],
)
def test_an_impossible_shape_is_refused(
    bundles: Path, changes: dict[str, Any], message: str
) -> None:
    shape = json.loads((bundles / "device" / "hat.json").read_text())["shape"]
    _change(bundles / "device", shape=shape | changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundles, "device")


def test_a_file_name_that_no_file_can_have_is_refused(bundles: Path) -> None:
    files = json.loads((bundles / "cloud" / "hat.json").read_text())["files"]
    for name in ("a" * 1000, "nul\0"):
        _change(bundles / "cloud", files=files | {name: {"num_bytes": 1, "sha256": "0" * 64}})
        with pytest.raises(BundleError):
            load_bundle(bundles, "cloud")


def test_a_part_of_the_other_side_is_refused(whole: Path) -> None:
    with pytest.raises(BundleError, match="a cloud bundle has no input"):
        load_bundle(whole, "cloud").open_tensors(Part.INPUT)


def test_tensors_are_read_without_a_copy(whole: Path) -> None:
    bundle = load_bundle(whole, "device")
    table = bundle.read_tensor(Part.INPUT, "model.embed_tokens.weight")
    assert table.shape == (bundle.manifest.shape.vocab_size, bundle.manifest.shape.hidden_size)
    assert table.dtype == np.float32
    assert not table.flags.owndata


def test_reading_a_bundle_loads_neither_torch_nor_transformers(whole: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from submodels.bundle.bundle import load_bundle\n"
        "from submodels.tensors.tensor_layout import Part\n"
        "load_bundle(Path(sys.argv[1]), 'device').open_tensors(Part.INPUT)\n"
        "assert not {'torch', 'transformers', 'onnx'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(whole)], check=True)
