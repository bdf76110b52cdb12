"""A GGUF file of each architecture is the checkpoint it was made of."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file, save_file

from hat.verify.reference import UnsplitModel
from submodels.random_models import RandomModel, make_random_model
from tests.support.gguf_families import GGUF_FAMILIES
from tests.support.gguf_files import GgufSettings, write_gguf
from tests.support.split_models import SplitModel, random_tokens, split

MAX_ERROR = 1e-4
NAMES = pytest.mark.parametrize("name", GGUF_FAMILIES)


def _make(model: RandomModel, folder: Path) -> None:
    """A checkpoint whose gains keep their last bit when 1 is added to them and taken off again."""
    make_random_model(model, folder)
    path = folder / "model.safetensors"
    tensors = {
        name: np.round(array * 1024) / 1024 if name.endswith("norm.weight") else array
        for name, array in load_file(path).items()
    }
    save_file(tensors, path, {"format": "pt"})


@NAMES
def test_a_float_file_of_each_architecture_is_its_checkpoint(tmp_path: Path, name: str) -> None:
    architecture, model = GGUF_FAMILIES[name]
    _make(model, tmp_path / "model")
    path = tmp_path / "model.gguf"
    write_gguf(tmp_path / "model", path, GgufSettings(architecture=architecture))
    from_folder = split(tmp_path / "model", tmp_path / "one", 1, onnx_weights=()).device
    from_file = split(path, tmp_path / "other", 1, onnx_weights=()).device
    assert from_file.shape == from_folder.shape
    assert from_file.rope_parameters == from_folder.rope_parameters
    assert from_file.tensors == from_folder.tensors
    assert from_file.fingerprint == from_folder.fingerprint
    assert from_file.eos_token_ids == from_folder.eos_token_ids


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "phi3", "phi4-mini", "qwen3 moe"])
def test_the_tensors_of_a_quantised_file_are_those_that_transformers_reads(
    tmp_path: Path, name: str
) -> None:
    architecture, model = GGUF_FAMILIES[name]
    make_random_model(model, tmp_path / "model")
    path = tmp_path / "model.gguf"
    write_gguf(tmp_path / "model", path, GgufSettings(Kind.Q8_0, architecture))
    split(path, tmp_path / "out", 1, 1)
    prompt, parts = random_tokens(12, 256), SplitModel(tmp_path / "out")
    answer = UnsplitModel(path, "float32").greedy(prompt, 8)
    logits = parts.logits(prompt, 0)[-1]
    for place, (token_id, logprob) in enumerate(zip(answer.ids, answer.logprobs, strict=True)):
        assert token_id == int(logits.argmax())
        assert abs(float(logits.log_softmax(-1)[token_id]) - logprob) < MAX_ERROR
        logits = parts.logits([token_id], len(prompt) + place)[-1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mixtral", "Unknown gguf model_type: mixtral"),
        ("granite", "architecture granite is not supported"),
        ("gemma4", "its reader of GGUF files ends with"),
        ("gpt-oss", "its reader of GGUF files ends with"),
    ],
)
def test_what_transformers_cannot_read_is_told_in_a_line(
    tmp_path: Path, name: str, said: str
) -> None:
    architecture, model = GGUF_FAMILIES[name]
    make_random_model(model, tmp_path / "model")
    path = tmp_path / "model.gguf"
    write_gguf(tmp_path / "model", path, GgufSettings(architecture=architecture))
    with pytest.raises((NotImplementedError, ValueError), match=said) as refused:
        UnsplitModel(path, "float32")
    assert "\n" not in str(refused.value)
