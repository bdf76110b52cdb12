import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adapters.networks import build_network, load_network, network_tensors
from adapters.storage import (
    CARD_FILE,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    AdapterCard,
    AdapterError,
    Kind,
    adapter_shape,
    load_adapter,
    load_card,
    write_card,
    write_weights,
)
from submodels.bundle.bundle import load_bundle
from submodels.manifest import Manifest
from submodels.onnx.builder import GraphBuilder
from submodels.onnx.files import Graph
from submodels.onnx.layers import add_decoder_stack
from tests.support.adapter_models import make_bundles
from tests.support.stored_adapters import ADAPTER, FIGURES


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return load_bundle(make_bundles(tmp_path)[0], "device").manifest


def store(
    folder: Path,
    manifest: Manifest,
    kind: Kind,
    closing_norm: bool,
    draft_vocabulary: Sequence[int] | None = None,
) -> AdapterCard:
    folder.mkdir(exist_ok=True)
    shape = adapter_shape(manifest.shape)
    network = build_network(kind, shape, closing_norm, seed=3)
    card = AdapterCard(
        format_version=FORMAT_VERSION,
        kind=kind,
        closing_norm=closing_norm,
        shape=shape,
        fingerprint=manifest.fingerprint,
        num_input_layers=manifest.num_input_layers,
        num_output_layers=manifest.num_output_layers,
        stop_threshold=0.25,
        max_draft_tokens=6,
        training=FIGURES,
        draft_vocabulary_size=None if draft_vocabulary is None else len(draft_vocabulary),
        weights=write_weights(
            folder,
            network_tensors(network),
            None if draft_vocabulary is None else np.array(draft_vocabulary),
        ),
    )
    write_card(folder, card)
    return card


@pytest.mark.parametrize("closing_norm", [False, True])
@pytest.mark.parametrize("kind", ["attention", "layer", "fed", "block"])
def test_a_stored_adapter_comes_back_as_it_was(
    tmp_path: Path, manifest: Manifest, kind: Kind, closing_norm: bool
) -> None:
    card = store(tmp_path / "adapter", manifest, kind, closing_norm)
    stored = load_adapter(tmp_path / "adapter", manifest)
    assert stored.card == card
    written = network_tensors(build_network(kind, card.shape, closing_norm, seed=3))
    loaded = network_tensors(load_network(stored))
    assert written.keys() == loaded.keys() == stored.tensors().tensors.keys()
    for name, tensor in written.items():
        np.testing.assert_array_equal(loaded[name], tensor)


def test_a_layer_adapter_is_a_decoder_layer_to_the_graph_builder(
    tmp_path: Path, manifest: Manifest
) -> None:
    card = store(tmp_path / "adapter", manifest, "layer", closing_norm=False)
    stored = load_adapter(tmp_path / "adapter", manifest)
    builder = GraphBuilder(Graph.INPUT, "float32")
    add_decoder_stack(builder, card.shape, card.shape.sliding_windows, stored.tensors())


def test_an_adapter_of_another_model_or_split_is_refused(
    tmp_path: Path, manifest: Manifest
) -> None:
    store(tmp_path / "adapter", manifest, "layer", closing_norm=False)
    other = msgspec.structs.replace(manifest, fingerprint="0" * 64, source_fingerprint="0" * 64)
    with pytest.raises(AdapterError, match="fingerprint"):
        load_adapter(tmp_path / "adapter", other)
    other = msgspec.structs.replace(manifest, num_input_layers=2)
    with pytest.raises(AdapterError, match="1 input and 0 output layers"):
        load_adapter(tmp_path / "adapter", other)
    shape = msgspec.structs.replace(manifest.shape, intermediate_size=52)
    with pytest.raises(AdapterError, match="shape"):
        load_adapter(tmp_path / "adapter", msgspec.structs.replace(manifest, shape=shape))


def test_missing_and_damaged_files_are_told_apart(tmp_path: Path, manifest: Manifest) -> None:
    folder = tmp_path / "adapter"
    with pytest.raises(AdapterError, match="no adapter at"):
        load_adapter(folder, manifest)
    store(folder, manifest, "layer", closing_norm=False)
    weights, card = folder / WEIGHTS_FILE, folder / CARD_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(AdapterError, match="corrupt"):
        load_adapter(folder, manifest)
    weights.unlink()
    with pytest.raises(AdapterError, match="missing"):
        load_adapter(folder, manifest)
    card.write_text("{")
    with pytest.raises(AdapterError, match="not a valid adapter card"):
        load_adapter(folder, manifest)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 3, "expected format version 1 or 2, got 3"),
        ("stop_threshold", 1.5, "stop threshold in"),
        ("max_draft_tokens", 0, "1 to 128 draft tokens, got 0"),
        ("max_draft_tokens", 129, "1 to 128 draft tokens, got 129"),
        ("kind", "attention", "tensors do not match"),
        ("kind", "fed", "tensors do not match"),
        ("kind", "block", "tensors do not match"),
        ("kind", "tree", "not a valid adapter card: Invalid enum value 'tree'"),
        ("draft_vocabulary_size", 4, "tensors do not match"),
    ],
)
def test_a_card_that_cannot_be_right_is_refused(
    tmp_path: Path, manifest: Manifest, field: str, value: object, message: str
) -> None:
    folder = tmp_path / "adapter"
    card = store(folder, manifest, "layer", closing_norm=False)
    write_card(folder, msgspec.structs.replace(card, **{field: value}))
    with pytest.raises(AdapterError, match=message):
        load_adapter(folder, manifest)


def test_a_block_adapter_drafts_the_blocks_it_was_trained_for(
    tmp_path: Path, manifest: Manifest
) -> None:
    folder = tmp_path / "adapter"
    card = store(folder, manifest, "block", closing_norm=False)
    write_card(folder, msgspec.structs.replace(card, max_draft_tokens=4))
    with pytest.raises(AdapterError, match="tensors do not match"):
        load_adapter(folder, manifest)


def test_a_block_adapter_is_refused_where_the_device_has_output_layers(
    tmp_path: Path, manifest: Manifest
) -> None:
    folder = tmp_path / "adapter"
    other = msgspec.structs.replace(manifest, num_output_layers=1)
    store(folder, other, "block", closing_norm=False)
    with pytest.raises(AdapterError, match="a device without output layers, got 1"):
        load_adapter(folder, other)


def test_a_draft_vocabulary_comes_back_beside_the_weights(
    tmp_path: Path, manifest: Manifest
) -> None:
    card = store(tmp_path / "adapter", manifest, "fed", False, (0, 3, 4, 59))
    stored = load_adapter(tmp_path / "adapter", manifest)
    assert stored.card == card
    vocabulary = stored.draft_vocabulary()
    assert vocabulary is not None
    assert vocabulary.dtype == np.int32
    assert vocabulary.tolist() == [0, 3, 4, 59]
    assert set(network_tensors(load_network(stored))) == {
        name for name in stored.tensors().tensors if name != "draft_vocabulary"
    }


@pytest.mark.parametrize("ids", [(-1, 2), (3, 3), (4, 2), (2, 1 << 20)])
def test_a_draft_vocabulary_that_cannot_be_right_is_refused(
    tmp_path: Path, manifest: Manifest, ids: tuple[int, ...]
) -> None:
    store(tmp_path / "adapter", manifest, "layer", False, ids)
    with pytest.raises(AdapterError, match="ascending token ids in"):
        load_adapter(tmp_path / "adapter", manifest)


def test_an_adapter_of_the_first_format_is_read_as_it_always_was() -> None:
    """The one that comes with the story model was written before there was a second."""
    assert json.loads((ADAPTER / CARD_FILE).read_text())["format_version"] == 1
    card = load_card(ADAPTER)
    assert (card.kind, card.draft_vocabulary_size) == ("layer", None)


def test_an_adapter_can_be_read_without_torch() -> None:
    code = "import sys, adapters.storage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
