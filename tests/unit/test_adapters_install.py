from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adapters.install import install_adapter
from adapters.storage import AdapterError, Kind, load_adapter
from device_runtime.engines.engine import DraftRequest, Rows
from device_runtime.engines.onnx_engine import load_onnx_engine
from submodels.bundle.bundle import load_bundle
from submodels.bundle.files import replace_files
from submodels.errors import BundleError
from submodels.onnx.files import WEIGHTS_FORMATS, WeightsFormat
from submodels.random_models import make_random_model
from tests.support.adapter_models import SMALL, make_bundles
from tests.support.split_models import split
from tests.support.stored_adapters import store_random_adapter

GRAPHS = {f"adapter.{weights}.onnx" for weights in ("float32", "int8", "int4")}
DRAFT_HEADS = {f"draft_head.{weights}.onnx" for weights in ("float32", "int8", "int4")}
DRAFT_STEPS = {f"draft_step.{weights}.onnx" for weights in ("float32", "int8", "int4")}
FILES = {"adapter.json", "adapter.safetensors"}


@pytest.fixture
def device(tmp_path: Path) -> Path:
    return make_bundles(tmp_path)[0]


@pytest.fixture
def onnx_device(tmp_path: Path) -> Path:
    make_random_model(SMALL, tmp_path / "model")
    split(tmp_path / "model", tmp_path / "onnx", 1, onnx_weights=("float32",))
    return tmp_path / "onnx" / "device"


@pytest.mark.parametrize("kind", ["layer", "attention", "fed"])
def test_an_installed_adapter_is_part_of_the_bundle(
    onnx_device: Path, tmp_path: Path, kind: Kind
) -> None:
    device = onnx_device
    before = load_bundle(device, "device").manifest
    card = store_random_adapter(tmp_path / "adapter", before, kind)
    assert install_adapter(device, tmp_path / "adapter") == card
    bundle = load_bundle(device, "device", verify=True)
    # The head in int8, in which drafts are made.
    added = GRAPHS | FILES | {"head.int8.onnx"}
    assert bundle.manifest.files.keys() == before.files.keys() | added
    assert msgspec.structs.replace(bundle.manifest, files=before.files) == before
    assert load_adapter(device, bundle.manifest).card == card


def test_a_bundle_without_onnx_parts_gets_no_onnx_adapter(device: Path, tmp_path: Path) -> None:
    before = load_bundle(device, "device").manifest
    store_random_adapter(tmp_path / "adapter", before, "layer")
    install_adapter(device, tmp_path / "adapter")
    assert load_bundle(device, "device").manifest.files.keys() == before.files.keys() | FILES


def test_a_second_adapter_takes_the_place_of_the_first(device: Path, tmp_path: Path) -> None:
    manifest = load_bundle(device, "device").manifest
    for kind in ("layer", "attention"):
        card = store_random_adapter(tmp_path / kind, manifest, kind)
        install_adapter(device, tmp_path / kind)
    bundle = load_bundle(device, "device", verify=True)
    assert load_adapter(device, bundle.manifest).card == card
    # The bundle's own folder will do as well.
    install_adapter(device, device)
    assert load_bundle(device, "device", verify=True).manifest == bundle.manifest


def test_an_adapter_of_another_split_leaves_the_bundle_as_it_was(
    device: Path, tmp_path: Path
) -> None:
    manifest = load_bundle(device, "device").manifest
    other = load_bundle(make_bundles(tmp_path, num_input=2)[0], "device").manifest
    store_random_adapter(tmp_path / "adapter", other, "layer")
    with pytest.raises(AdapterError, match="trained for 2 input"):
        install_adapter(device, tmp_path / "adapter")
    assert load_bundle(device, "device", verify=True).manifest == manifest


def test_a_listed_adapter_that_was_changed_is_refused(device: Path, tmp_path: Path) -> None:
    store_random_adapter(tmp_path / "adapter", load_bundle(device, "device").manifest, "layer")
    install_adapter(device, tmp_path / "adapter")
    path = device / "adapter.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(BundleError, match="is corrupt"):
        load_bundle(device, "device")


@pytest.mark.parametrize("kind", ["fed", "block"])
@pytest.mark.parametrize("weights", WEIGHTS_FORMATS)
def test_an_adapter_that_drafts_some_tokens_brings_a_head_of_these(
    onnx_device: Path, tmp_path: Path, weights: WeightsFormat, kind: Kind
) -> None:
    vocabulary = np.array([1, 5, 8, 60, 200])
    manifest = load_bundle(onnx_device, "device").manifest
    store_random_adapter(tmp_path / "adapter", manifest, kind, vocabulary)
    install_adapter(onnx_device, tmp_path / "adapter")
    files = load_bundle(onnx_device, "device", verify=True).manifest.files.keys()
    heads = DRAFT_HEADS | DRAFT_STEPS if kind == "block" else DRAFT_HEADS
    assert files == manifest.files.keys() | GRAPHS | FILES | heads
    engine = load_onnx_engine(onnx_device, "float32", 1, None, weights)
    seen: list[Rows] = []

    def choose(logits: Rows, _: Sequence[int]) -> int:
        seen.append(logits.copy())
        return int(logits.argmax())

    request = DraftRequest((1, 2, 3), 0, 6, choose, min_probability=0.0)
    drafted = engine.draft(engine.open(), request)
    assert len(drafted) == 6
    assert set(drafted) <= set(vocabulary.tolist())
    for logits in seen:
        assert np.flatnonzero(logits > -np.inf).tolist() == vocabulary.tolist()


def test_another_adapter_takes_the_heads_away_again(onnx_device: Path, tmp_path: Path) -> None:
    manifest = load_bundle(onnx_device, "device").manifest
    heads = DRAFT_HEADS | DRAFT_STEPS
    store_random_adapter(tmp_path / "some", manifest, "block", np.array([1, 5]))
    install_adapter(onnx_device, tmp_path / "some")
    assert heads < load_bundle(onnx_device, "device").manifest.files.keys()
    store_random_adapter(tmp_path / "all", manifest, "layer")
    install_adapter(onnx_device, tmp_path / "all")
    assert not heads & load_bundle(onnx_device, "device").manifest.files.keys()
    assert not any((onnx_device / name).exists() for name in heads)


def test_an_adapter_without_the_head_it_drafts_with_is_refused(
    onnx_device: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(onnx_device, "device")
    store_random_adapter(tmp_path / "adapter", bundle.manifest, "layer", np.array([1, 5]))
    install_adapter(onnx_device, tmp_path / "adapter")
    replace_files(load_bundle(onnx_device, "device"), ["draft_head.int8.onnx"], [])
    with pytest.raises(BundleError, match=r"lists adapter\.int8\.onnx and not draft_head\.int8"):
        load_onnx_engine(onnx_device, "float32", 1, None, "int8")


def test_the_manifest_is_written_through_no_link_that_somebody_put_there(
    onnx_device: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (onnx_device / ".hat.json.partial").symlink_to(other)
    manifest = replace_files(load_bundle(onnx_device, "device"), [], [])
    assert other.read_text() == "mine"
    assert load_bundle(onnx_device, "device").manifest == manifest
