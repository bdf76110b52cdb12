"""Published heads: what is read of them, what they become, and what is refused with which words."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adapters.importing.conversion import ImportLimits, import_head
from adapters.importing.depths import depths_of, usual_depths
from adapters.storage import AdapterCard, AdapterError, load_adapter
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.errors import CheckpointError
from submodels.random_models import RandomModel
from submodels.tensors.tensor_layout import EMBEDDING, Part
from tests.support.adapter_models import make_bundles
from tests.support.published_heads import HeadRecipe, TinyHead, make_head

MODEL = RandomModel(hidden_size=32, intermediate_size=48, max_context_tokens=96, num_layers=8)
EAGLE, EAGLE3 = HeadRecipe("eagle"), HeadRecipe("eagle3", draft_vocab_size=100)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(make_bundles(tmp_path_factory.mktemp("m"), model=MODEL)[0], "device")


@pytest.fixture
def head(bundle: Bundle) -> TinyHead:
    return make_head(bundle.manifest.shape, EAGLE)


@pytest.fixture
def head3(bundle: Bundle) -> TinyHead:
    return make_head(bundle.manifest.shape, EAGLE3)


def imported(head: TinyHead, bundle: Bundle, folder: Path, **options: Any) -> AdapterCard:
    published = head.write(folder / "published", pickled=options.pop("pickled", False))
    return import_head(str(published), bundle.path, folder / "adapter", **options)


@pytest.mark.parametrize("pickled", [False, True])
def test_an_eagle_head_becomes_an_adapter_of_the_bundle(
    bundle: Bundle, head: TinyHead, tmp_path: Path, pickled: bool
) -> None:
    head.tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    card = imported(head, bundle, tmp_path, pickled=pickled)
    stored = load_adapter(tmp_path / "adapter", bundle.manifest)
    assert stored.card == card
    assert (card.kind, card.training, card.draft_vocabulary_size) == ("eagle", None, None)
    assert card.head is not None
    assert card.head.depths == (8,)
    assert (card.shape.num_attention_heads, card.shape.head_dim) == (4, 16)
    assert card.shape.rope.inv_freq[1] == pytest.approx(5000 ** (-2 / 16))
    file = stored.tensors()
    for ours, theirs in {
        "fc.weight": "fc.weight",
        "fc.bias": "fc.bias",
        "model.layers.0.self_attn.q_proj.weight": "layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.down_proj.weight": "layers.0.mlp.down_proj.weight",
    }.items():
        np.testing.assert_array_equal(file.read(ours), head.tensors[theirs].numpy())


def test_a_head_without_a_bias_has_a_bias_of_zeros(bundle: Bundle, tmp_path: Path) -> None:
    head = make_head(bundle.manifest.shape, replace(EAGLE, has_bias=False))
    imported(head, bundle, tmp_path)
    bias = load_adapter(tmp_path / "adapter", bundle.manifest).tensors().read("fc.bias")
    np.testing.assert_array_equal(bias, np.zeros(32))


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("layer", ["midlayer", "layers.0", "model.layers.0"])
def test_an_eagle3_head_brings_its_vocabulary_and_says_where_it_reads(
    bundle: Bundle, tmp_path: Path, layer: str, pickled: bool
) -> None:
    recipe = replace(EAGLE3, norm_before_residual=True)
    head = make_head(bundle.manifest.shape, recipe)
    if layer != "midlayer":
        prefix = layer.removesuffix("layers.0")
        tensors = {prefix + n.replace("midlayer", "layers.0"): t for n, t in head.tensors.items()}
        head = replace(head, tensors=tensors)
    card = imported(head, bundle, tmp_path, pickled=pickled)
    stored = load_adapter(tmp_path / "adapter", bundle.manifest)
    assert (card.kind, card.draft_vocabulary_size) == ("eagle3", 100)
    assert card.head is not None
    assert (card.head.depths, card.head.norm_before_residual) == ((2, 4, 5), True)
    map_name = next(name for name in head.tensors if name.endswith("t2d"))
    vocabulary = stored.draft_vocabulary()
    assert vocabulary is not None
    np.testing.assert_array_equal(vocabulary, head.tensors[map_name].nonzero()[:, 0].numpy())
    assert stored.tensors().tensors["lm_head.weight"].shape == (100, 32)


def test_half_precision_weights_are_widened_exactly(
    bundle: Bundle, head: TinyHead, tmp_path: Path
) -> None:
    for pickled in (False, True):
        for dtype in (torch.float16, torch.bfloat16):
            folder = tmp_path / f"{pickled}-{dtype}"
            half = replace(head, tensors={n: t.to(dtype) for n, t in head.tensors.items()})
            imported(half, bundle, folder, pickled=pickled)
            came = load_adapter(folder / "adapter", bundle.manifest).tensors().read("fc.weight")
            np.testing.assert_array_equal(came, half.tensors["fc.weight"].float().numpy())


def test_the_models_own_tables_are_recognised_and_not_stored(
    bundle: Bundle, head: TinyHead, tmp_path: Path
) -> None:
    embedding = torch.from_numpy(np.array(bundle.read_tensor(Part.INPUT, EMBEDDING)))
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(99))
    for name, table in {
        "same": embedding,
        "half": embedding.half(),
        "quantised": embedding * (1 + 0.1 * noise),
    }.items():
        head.tensors["embed_tokens.weight"] = table
        imported(head, bundle, tmp_path / name)
        stored = load_adapter(tmp_path / name / "adapter", bundle.manifest)
        assert "embed_tokens.weight" not in stored.tensors().tensors
    head.tensors["embed_tokens.weight"] = noise * embedding.std()
    with pytest.raises(AdapterError, match=r"embed_tokens.weight is not that of"):
        imported(head, bundle, tmp_path / "other")


def test_limits_are_those_that_were_asked_for(
    bundle: Bundle, head: TinyHead, tmp_path: Path
) -> None:
    card = imported(head, bundle, tmp_path, limits=ImportLimits(0.4, 3))
    assert (card.stop_threshold, card.max_draft_tokens) == (0.4, 3)


FOREIGN: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "a model": ({}, ["model.layers.0.x", "model.layers.1.x"], "a model of 2 layers.*hat split"),
    "medusa": ({"medusa_num_heads": 4}, ["0.0.linear.weight"], "Medusa heads.*medusa_training"),
    "mlp": ({"model_type": "mlp_speculator"}, ["emb.0.weight"], "MLP speculator.*EAGLE"),
    "p-eagle": ({"architectures": ["PEagleDraftModel"]}, ["fc.weight"], "P-EAGLE.*one pass"),
    "dflash": ({"architectures": ["DFlashDraftModel"]}, ["fc.weight"], "dflash.*one pass"),
    "speculators": ({}, ["fusion_fc.weight"], "older format of speculators"),
    "mtp": ({"model_type": "deepseek_mtp"}, ["mtp.fc.weight"], "MTP module"),
    "anything": ({}, ["a", "b"], "no head that is known .tensors: a, b"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_eagle_head_is_named_with_what_to_do(
    bundle: Bundle, tmp_path: Path, what: str
) -> None:
    config, names, words = FOREIGN[what]
    foreign = TinyHead(EAGLE, config, {name: torch.zeros(4, 4) for name in names})
    with pytest.raises(AdapterError, match=words):
        imported(foreign, bundle, tmp_path)
    assert not (tmp_path / "adapter").exists()


Change = Callable[[TinyHead], None]


def _set(**settings: Any) -> Change:
    return lambda head: head.config.update(settings)


def _resize(name: str, *size: int) -> Change:
    return lambda head: head.tensors.update({name: torch.zeros(size)})


def _drop(name: str) -> Change:
    return lambda head: head.tensors.__delitem__(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_resize("fc.weight", 32, 5 * 32), r"fc.weight of shape .*got \[32, 160\]"),
        (_resize("layers.1.mlp.up_proj.weight", 4, 4), "one decoder layer, got 2"),
        (_resize("fc_norm.0.weight", 32), "no place in an EAGLE head: fc_norm.0.weight"),
        (_resize("midlayer.mlp.up_proj.weight", 7, 32), "up_proj.weight has the shape"),
        (_drop("midlayer.hidden_norm.weight"), "hidden_norm.weight is missing"),
        (_drop("lm_head.weight"), "lm_head.weight is missing"),
        (_drop("d2t"), "drafts 100 of 261 tokens and has no d2t"),
        (_resize("t2d", 261), "expected whole numbers in t2d"),
        (lambda head: head.tensors["d2t"].add_(200), "ascending tokens from 0 to 260"),
        (lambda head: head.tensors["t2d"].fill_(True), "name different tokens"),
        (_set(hidden_size=64, head_dim=16), "hidden_size 64, this one has 32"),
        (_set(vocab_size=262), "vocab_size 262, this one has 261"),
        (_set(fc_norm=True), "fc_norm is set"),
        (_set(hidden_act="gelu"), "activation 'gelu' is not supported"),
        (_set(rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "dynamic"),
        (_set(eagle_aux_hidden_state_layer_ids=[1, 2, 3]), "may mean.*--depths 2,3,4"),
        (_set(eagle_aux_hidden_state_layer_ids=[1, 2]), "expected 3 depths from 0 to 8"),
        (_set(eagle_aux_hidden_state_layer_ids=[1, 2, True]), "expected 3 depths"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_with_what_was_expected(
    bundle: Bundle, head3: TinyHead, tmp_path: Path, change: Change, words: str
) -> None:
    change(head3)
    with pytest.raises(AdapterError, match=words):
        imported(head3, bundle, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_a_split_that_has_not_the_rows_is_refused_with_one_that_has(
    head3: TinyHead, tmp_path: Path
) -> None:
    for num_input, num_output in ((3, 0), (1, 3)):
        name = f"{num_input}-{num_output}"
        device, _ = make_bundles(tmp_path, num_input, num_output, MODEL)
        with pytest.raises(AdapterError, match="at most 2 input and at most 2 output layers"):
            imported(head3, load_bundle(device, "device"), tmp_path / name)
    device, _ = make_bundles(tmp_path, 2, 2, MODEL)
    imported(head3, load_bundle(device, "device"), tmp_path / "whole")


def test_depths_are_the_usual_ones_or_those_that_a_configuration_names() -> None:
    assert usual_depths(32) == (2, 16, 29)
    ids = "eagle_aux_hidden_state_layer_ids"
    assert depths_of({}, 32) == (2, 16, 29)
    assert depths_of({ids: [1, 15, 28]}, 32) == (2, 16, 29), "rows that leave these layers"
    assert depths_of({ids: [2, 16, 29]}, 32) == (2, 16, 29), "rows that enter these layers"
    assert depths_of({"eagle_config": {ids: [1, 15, 28]}}, 32) == (2, 16, 29)
    assert depths_of({ids: [3, 9, 20], "speculators_model_type": "eagle3"}, 32) == (3, 9, 20)
    assert depths_of({ids: [3, 9, 20]}, 32, asked=(4, 10, 21)) == (4, 10, 21)


def test_a_head_in_speculators_files_is_read_by_its_nested_settings(
    bundle: Bundle, head3: TinyHead, tmp_path: Path
) -> None:
    tensors = {n.replace("midlayer", "layers.0"): t for n, t in head3.tensors.items()}
    config = {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": 100,
        "norm_before_residual": True,
        "fc_norm": False,
        "eagle_aux_hidden_state_layer_ids": [2, 3, 6],
        "transformer_layer_config": head3.config,
    }
    card = imported(replace(head3, config=config, tensors=tensors), bundle, tmp_path)
    assert card.head is not None
    assert (card.head.depths, card.head.norm_before_residual) == ((2, 3, 6), True)
    assert card.shape.intermediate_size == 40


def test_files_that_are_not_there_or_not_tensors_are_told_apart(
    bundle: Bundle, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [(str(tmp_path / "nowhere/at/all"), "expected a folder with a published head, or")]
    cases.append((str(empty), "holds no config.json"))
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    cases.append((str(bare), "expected model.safetensors or pytorch_model.bin"))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "config.json").write_text("{}")
    (wrong / "pytorch_model.bin").write_bytes(b"no tensors")
    cases.append((str(wrong), "cannot be read as tensors alone"))
    code = tmp_path / "code"
    code.mkdir()
    (code / "config.json").write_text("{}")
    torch.save({"fc.weight": Path("/")}, code / "pytorch_model.bin")
    cases.append((str(code), "cannot be read as tensors alone"))
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    (numbers / "config.json").write_text(json.dumps({}))
    torch.save([1, 2], numbers / "pytorch_model.bin")
    cases.append((str(numbers), "expected tensors by name, got list"))
    for name, words in cases:
        with pytest.raises(CheckpointError, match=words):
            import_head(name, bundle.path, tmp_path / "adapter")


def test_a_truncated_file_is_refused(bundle: Bundle, head: TinyHead, tmp_path: Path) -> None:
    folder = head.write(tmp_path / "published")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="corrupt or truncated"):
        import_head(str(folder), bundle.path, tmp_path / "adapter")
    save_file({"fc.weight": torch.zeros(32, 64, dtype=torch.float64)}, file)
    with pytest.raises(AdapterError):
        import_head(str(folder), bundle.path, tmp_path / "adapter")
