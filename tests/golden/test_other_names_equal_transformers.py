"""Families whose layers are another family's say what transformers' own classes for them say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hat.verify.reference import whole_model
from submodels.bundle.cloud_config import cloud_config
from submodels.checkpoint.checkpoint import open_checkpoint, read_json
from submodels.checkpoint.text_part import text_part
from submodels.errors import CheckpointError, UnsupportedModelError
from submodels.plan.plan import read_model
from submodels.plan.wrappers import text_config
from tests.support.other_names import OTHER_NAMES, make_other_name
from tests.support.split_models import SplitModel, random_tokens, split

# As in test_split_equals_whole.py.
MAX_ERROR = 5e-5


def _theirs(folder: Path, token_ids: tuple[int, ...]) -> torch.Tensor:
    model = whole_model({"pretrained_model_name_or_path": folder}, torch.float32)
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([token_ids])).logits[0]
    return logits


def _change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_family_under_another_name_equals_its_own_class(name: str, tmp_path: Path) -> None:
    model = make_other_name(name, tmp_path / "model")
    token_ids = random_tokens(70, model.vocab_size)
    result = split(tmp_path / "model", tmp_path / "out", 1, 1)
    logits = SplitModel(tmp_path / "out").chunked_logits(token_ids, (7, 1, 3, 16))
    assert (logits - _theirs(tmp_path / "model", token_ids)).abs().max() < MAX_ERROR
    named = json.loads((tmp_path / "out" / "cloud" / "config.json").read_text())
    assert named["architectures"][0].startswith("HatMiddle")
    assert result.device.eos_token_ids == (257,)


def test_names_and_settings_as_qwen_publishes_its_models(tmp_path: Path) -> None:
    """Qwen2.5-VL's config.json is flat, with a rope type that transformers knows no more."""
    folder = tmp_path / "model"
    model = make_other_name("qwen2_5_vl", folder)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    text = {key: value for key, value in text.items() if key not in ("model_type", "layer_types")}
    rope = {"type": "mrope", "mrope_section": [8, 4, 4]}
    _change(folder, text_config=None, **{**text, "rope_parameters": None})
    _change(folder, rope_scaling=rope, rope_theta=10000.0)
    token_ids = random_tokens(30, model.vocab_size)
    split(folder, tmp_path / "out", 1)
    logits = SplitModel(tmp_path / "out").chunked_logits(token_ids, (16,))
    assert (logits - _theirs(folder, token_ids)).abs().max() < MAX_ERROR


@pytest.mark.parametrize("name", ["ministral3", "internlm3, biases, dynamic"])
def test_lengths_at_which_the_layers_would_differ_are_beyond_the_context(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    make_other_name(name, folder)
    last = {"ministral3": 128}.get(name, 256)
    result = split(folder, tmp_path / "out", 1)
    assert result.device.shape.max_context_tokens == last
    token_ids = random_tokens(last + 40, 261)
    ours = SplitModel(tmp_path / "out").chunked_logits(token_ids[:last], (last,))
    assert (ours - _theirs(folder, token_ids[:last])).abs().max() < MAX_ERROR
    beyond = SplitModel(tmp_path / "out").chunked_logits(token_ids, (last + 40,))
    # Or there would be no reason to end there.
    assert (beyond - _theirs(folder, token_ids)).abs().max() > 100 * MAX_ERROR


def test_a_wrapper_around_another_model_is_refused_by_its_name(tmp_path: Path) -> None:
    make_other_name("mistral3", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    _change(tmp_path / "model", text_config=config["text_config"] | {"model_type": "starcoder2"})
    with pytest.raises(UnsupportedModelError, match="text part of this mistral3 is a 'starcoder2"):
        split(tmp_path / "model", tmp_path / "out", 1)


def test_drafts_of_the_wrapper_s_own_are_left_out(tmp_path: Path) -> None:
    """EXAONE 4.5 as it is published: drafts beside the text part, and names in `text_config`."""
    folder = tmp_path / "model"
    make_other_name("exaone4_5", folder)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    _change(folder, text_config=text | {"model_type": "exaone4_5_text"})
    tensors = load_file(folder / "model.safetensors")
    plain = split(folder, tmp_path / "plain", 1).device.fingerprint
    tensors["mtp.layers.0.self_attn.q_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert split(folder, tmp_path / "out", 1).device.fingerprint == plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"model_type": "granite", "logits_scaling": 8.0}, "logits_scaling of 8.0, which"),
        ({"model_type": "cohere2", "logit_scale": 0.25}, "logit_scale of 0.25, which"),
        ({"model_type": "gemma2", "final_logit_softcapping": 30.0}, "softcapping of 30.0, which"),
    ],
)
def test_a_text_part_whose_head_transformers_leaves_plain_is_refused(
    text: dict[str, Any], words: str
) -> None:
    """Greedy ids would be the same, and probabilities not."""
    with pytest.raises(UnsupportedModelError, match=words):
        text_config({"model_type": "llava_next", "text_config": text})
    plain = text_config({"model_type": "llava_next", "text_config": {"model_type": "granite"}})
    assert plain["model_type"] == "granite"


def test_a_wrapper_s_quantisation_is_seen(tmp_path: Path) -> None:
    make_other_name("qwen3_vl", tmp_path / "model")
    _change(tmp_path / "model", quantization_config={"quant_method": "hqq"})
    with pytest.raises(UnsupportedModelError, match="quant_method 'hqq' is not supported"):
        split(tmp_path / "model", tmp_path / "out", 1)


def test_a_tensor_that_is_there_under_both_names_is_refused(tmp_path: Path) -> None:
    make_other_name("qwen3_vl", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = tensors["model.language_model.norm.weight"].clone()
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"holds model.norm.weight twice"):
        split(tmp_path / "model", tmp_path / "out", 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seed_oss", {"model_type": "llama", "qkv_bias": True, "attention_bias": False}),
        ("cwm", {"model_type": "llama", "sliding_window": 6}),
        ("ministral3", {"model_type": "mistral", "max_position_embeddings": 128}),
        ("qwen2_5_vl", {"model_type": "qwen2", "use_sliding_window": False}),
        ("qwen3_vl", {"model_type": "qwen3", "attention_bias": False}),
        ("internlm3, biases, dynamic", {"model_type": "llama", "attention_bias": True}),
    ],
)
def test_the_cloud_is_told_of_classes_that_vllm_has(
    name: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    make_other_name(name, tmp_path)
    config, _ = text_part(read_json(tmp_path / "config.json"), open_checkpoint(tmp_path))
    model = read_model(config)
    told = cloud_config(config, model, range(1, 4), "float32")
    assert {key: told[key] for key in expected} == expected
    kind = told["rope_parameters"]["rope_type"]
    assert kind == ("yarn" if name == "ministral3" else "llama3" if name == "cwm" else "default")
    assert "mrope_section" not in told["rope_parameters"]
    assert told["num_hidden_layers"] == 3
