"""An adapter merged while its base is split gives the weights that peft's own merging gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from submodels.checkpoint.lora import merging
from submodels.checkpoint.opening import opened_checkpoint
from submodels.errors import CheckpointError, SplitError, UnsupportedModelError
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from submodels.tensors.tensor_file import NUMPY_DTYPES
from tests.support.other_names import make_other_name
from tests.support.split_models import SplitModel, random_tokens, reference_logits, split

MADE_BY_PEFT = Path(__file__).parents[1] / "data" / "peft"
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
SETTINGS = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_random_model(RandomModel(num_layers=2), tmp_path / "base")
    return tmp_path / "base"


def _written(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**SETTINGS, **settings}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _update(module: str = Q0, rows: int = 64) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    down, up = torch.randn(2, 64) * 0.1, torch.randn(rows, 2) * 0.1
    return {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}


def _numbers(source: Any) -> np.ndarray[Any, Any]:
    numbers = np.frombuffer(b"".join(source.pieces()), NUMPY_DTYPES[source.dtype])
    return numbers.reshape(source.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "expected_file", "changed_modules"),
    [
        ("adapter", "merged", {"q_proj", "o_proj", "up_proj", "lm_head"}),
        ("dora", "merged-dora", {"k_proj", "down_proj", "lm_head"}),
        ("table", "merged-table", {"embed_tokens", "v_proj"}),
        ("tokens", "merged-tokens", {"embed_tokens", "lm_head", "v_proj"}),
    ],
)
def test_every_weight_is_the_one_that_peft_merged(
    name: str, expected_file: str, changed_modules: set[str]
) -> None:
    expected = load_file(MADE_BY_PEFT / f"{expected_file}.safetensors")
    plain = load_file(MADE_BY_PEFT / "base" / "model.safetensors")
    with opened_checkpoint(MADE_BY_PEFT / name, str(MADE_BY_PEFT / "base")) as merged:
        assert merged.tensors.keys() == plain.keys()
        for tensor, source in merged.tensors.items():
            assert source.dtype == "BF16"
            assert np.array_equal(_numbers(source), expected[tensor].float().numpy()), tensor
    changed = {tensor for tensor in plain if not torch.equal(plain[tensor], expected[tensor])}
    assert {tensor.split(".")[-2] for tensor in changed} == changed_modules


@pytest.mark.parametrize("kind", ["plain", "dora", "table"])
def test_steps_of_a_large_matrix_are_alike_and_come_to_the_whole(
    kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers, which add up to the same in every order."""
    module = "base_model.model.model.embed_tokens" if kind == "table" else Q0
    rows = 261 if kind == "table" else 64
    generator = torch.Generator().manual_seed(2)
    down = torch.randint(-3, 4, (2, 64), generator=generator).float()
    up = torch.randint(-3, 4, (rows, 2), generator=generator).float()
    lengths = torch.rand(rows, generator=generator) + 1
    if kind == "table":
        tensors = {f"{module}.lora_embedding_A": up.T, f"{module}.lora_embedding_B": down.T}
    else:
        tensors = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    if kind == "dora":
        tensors[f"{module}.lora_magnitude_vector"] = lengths
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    folder = _written(tmp_path / "a", tensors, use_dora=kind == "dora")
    name = f"{module.removeprefix('base_model.model.')}.weight"
    whole = load_file(base / "model.safetensors")[name] + (up @ down) * 3.0
    if kind == "dora":
        whole *= (lengths / torch.linalg.norm(whole, dim=1))[:, None]
    monkeypatch.setattr(merging, "PIECE_BYTES", 3000)
    with opened_checkpoint(folder, str(base)) as merged:
        pieces = list(merged.tensors[name].pieces())
        came = _numbers(merged.tensors[name])
    assert len(pieces) > 5
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) <= 3072
    assert min(sizes) > max(sizes) / 2
    np.testing.assert_array_equal(came, whole.numpy())


def test_a_split_adapter_says_what_the_merged_model_says(base: Path, tmp_path: Path) -> None:
    folder = _written(tmp_path / "a", _update(), base_model_name_or_path=str(base))
    weights = load_file(base / "model.safetensors")
    update = _update()
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] += 3.0 * update[f"{Q0}.lora_B.weight"] @ update[f"{Q0}.lora_A.weight"]
    shutil.copytree(base, tmp_path / "merged")
    save_file(weights, tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    token_ids = random_tokens(40, 261)
    result = split(folder, tmp_path / "out", 1)
    assert result.device.model_name == "a"
    logits = SplitModel(tmp_path / "out").chunked_logits(token_ids, (16,))
    assert (logits - reference_logits(tmp_path / "merged", token_ids)).abs().max() < 5e-5
    assert (logits - reference_logits(base, token_ids)).abs().max() > 0.1


@pytest.mark.parametrize("name", ["qwen3_vl", "mistral3"])
def test_an_adapter_of_a_wrapper_reaches_the_text_part(name: str, tmp_path: Path) -> None:
    """Its names are those within transformers, whatever the names on disk are."""
    make_other_name(name, tmp_path / "base")
    module = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    seeing = {"base_model.model.model.visual.merger.lora_A.weight": torch.zeros(2, 3)}
    folder = _written(tmp_path / "a", _update(module) | seeing)
    with opened_checkpoint(folder, str(tmp_path / "base")) as merged:
        [place] = [n for n in merged.tensors if n.endswith("layers.0.self_attn.q_proj.weight")]
        came = _numbers(merged.tensors[place])
    before = load_file(tmp_path / "base" / "model.safetensors")[place].numpy()
    assert 0.01 < np.abs(came - before).max() < 1.0


def test_the_tokenizer_is_the_adapters_where_it_has_one(base: Path, tmp_path: Path) -> None:
    folder = _written(tmp_path / "a", _update())
    (base / "chat_template.jinja").write_text("of the base")
    result = split_checkpoint(SplitOptions(str(folder), tmp_path / "1", 1, base=str(base)))
    assert "chat_template.jinja" in result.device.files
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder / name)
    result = split_checkpoint(SplitOptions(str(folder), tmp_path / "2", 1, base=str(base)))
    assert "chat_template.jinja" not in result.device.files


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
        ({"use_qalora": True}, "use_qalora is set"),
        ({"trainable_token_indices": [3, -1]}, "trainable_token_indices: expected ids, got"),
        ({"trainable_token_indices": {"embed_tokens": "3"}}, "expected ids, got"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"layer_replication": [[0, 4]]}, "layer_replication is set"),
        ({"a_later_invention": 1}, "a_later_invention is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base model's weights too"),
        ({"r": 0}, "expected ranks of 1 or more"),
        ({"rank_pattern": {"(": 2}}, "is not valid"),
        ({"lora_alpha": "much"}, "is not valid"),
    ],
)
def test_what_would_give_other_weights_is_refused_by_name(
    base: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    folder = _written(tmp_path / "a", _update(), **settings)
    with pytest.raises(UnsupportedModelError, match=words):
        split(folder, tmp_path / "out", 1, base=str(base))


def _without_up(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"{Q0}.lora_B.weight"]


def _other_rank(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{Q0}.lora_A.weight"] = torch.zeros(3, 64)


def _of_nothing(tensors: dict[str, torch.Tensor]) -> None:
    tensors |= _update(Q0.replace("q_proj", "qkv_proj"))


def _dora(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{Q0}.lora_magnitude_vector"] = torch.zeros(64)


def _dora_of_a_table(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.embed_tokens.lora_magnitude_vector"] = torch.zeros(64)


def _more_tokens(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lm_head.weight"] = torch.zeros(270, 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_up, "and no base_model.*lora_B.weight"),
        (_other_rank, r"expected shape \(2, 64\), got \(3, 64\)"),
        (_of_nothing, "qkv_proj.lora_A.weight is an update of nothing in"),
        (_dora, "use_dora is False in its settings, and .*lora_magnitude_vector is there"),
        (_dora_of_a_table, "embed_tokens.lora_magnitude_vector is not supported"),
        (_more_tokens, r"expected shape \(261, 64\), got \(270, 64\)"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(
    base: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], words: str
) -> None:
    tensors = _update()
    change(tensors)
    folder = _written(tmp_path / "a", tensors)
    with pytest.raises(SplitError, match=words):
        split(folder, tmp_path / "out", 1, base=str(base))


_TOKENS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


def test_rows_that_are_brought_whole_are_a_tied_heads_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As peft has it: both stay tied."""
    make_random_model(RandomModel(num_layers=2, tied=True, dtype="bfloat16"), tmp_path / "base")
    rows = torch.randn(2, 64, generator=torch.Generator().manual_seed(4))
    folder = _written(tmp_path / "a", {_TOKENS: rows}, trainable_token_indices=[200, 3])
    monkeypatch.setattr(merging, "PIECE_BYTES", 3000)
    expected = load_file(tmp_path / "base" / "model.safetensors")["model.embed_tokens.weight"]
    expected[[200, 3]] = rows.bfloat16()
    with opened_checkpoint(folder, str(tmp_path / "base")) as merged:
        came = _numbers(merged.tensors["model.embed_tokens.weight"])
    np.testing.assert_array_equal(came, expected.float().numpy())
    assert split(
        folder, tmp_path / "o", 1, base=str(tmp_path / "base")
    ).device.shape.tied_embeddings


def test_rows_of_a_tied_head_that_is_on_disk_too_are_refused(tmp_path: Path) -> None:
    """They would be the embedding's alone, and the head no longer tied."""
    make_random_model(RandomModel(num_layers=2, tied=True), tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, file, {"format": "pt"})
    folder = _written(tmp_path / "a", {_TOKENS: torch.ones(1, 64)}, trainable_token_indices=[3])
    with pytest.raises(UnsupportedModelError, match="changes one of embedding and head"):
        split(folder, tmp_path / "out", 1, base=str(tmp_path / "base"))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([3, 261], "trainable_token_indices: expected ids below 261, got 261"),
        ([3], r"trainable_tokens_delta: expected shape \(1, 64\), got \(2, 64\)"),
        ({"other": [3, 4]}, r"trainable_tokens_delta: expected shape \(0, 64\), got \(2, 64\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused(ids: Any, words: str, base: Path, tmp_path: Path) -> None:
    folder = _written(tmp_path / "a", {_TOKENS: torch.ones(2, 64)}, trainable_token_indices=ids)
    with pytest.raises(CheckpointError, match=words):
        split(folder, tmp_path / "out", 1, base=str(base))


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (None, "use_dora is True in its settings, and .*lora_magnitude_vector is not there"),
        (torch.ones(63), r"lora_magnitude_vector: expected shape \(64,\), got \(63,\)"),
    ],
)
def test_dora_without_its_lengths_is_refused(
    base: Path, tmp_path: Path, lengths: torch.Tensor | None, words: str
) -> None:
    more = {} if lengths is None else {f"{Q0}.lora_magnitude_vector": lengths}
    folder = _written(tmp_path / "a", _update() | more, use_dora=True)
    with pytest.raises(CheckpointError, match=words):
        split(folder, tmp_path / "out", 1, base=str(base))


def test_an_update_of_a_tied_head_is_refused(tmp_path: Path) -> None:
    make_random_model(RandomModel(num_layers=2, tied=True), tmp_path / "base")
    folder = _written(tmp_path / "a", _update("base_model.model.lm_head", 261))
    with pytest.raises(UnsupportedModelError, match="changes one of embedding and head"):
        split(folder, tmp_path / "out", 1, base=str(tmp_path / "base"))


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({}, "names no base model: give --base"),
        ({"base_model_name_or_path": "/nowhere/at all"}, "or give --base"),
        ({"base_model_name_or_path": "base", "revision": "v2"}, "for the revision 'v2' of base"),
    ],
)
def test_a_base_that_cannot_be_had_is_asked_for(
    tmp_path: Path, named: dict[str, str], words: str
) -> None:
    folder = _written(tmp_path / "a", _update(), **named)
    with pytest.raises(CheckpointError, match=words):
        split(folder, tmp_path / "out", 1)


def test_an_adapter_of_itself_ends(tmp_path: Path) -> None:
    folder = _written(tmp_path / "a", _update(), base_model_name_or_path=str(tmp_path / "a"))
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        split(folder, tmp_path / "out", 1)


def test_a_base_for_what_is_no_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="so it is no adapter"):
        split(base, tmp_path / "out", 1, base=str(base))
