"""A GGUF file, split, says what transformers says of the same file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, PreTrainedModel

from hat.verify.reference import UnsplitModel
from submodels.random_models import RandomModel, make_random_model
from tests.support.gguf_converted import llama3_factors
from tests.support.gguf_files import GgufSettings, write_gguf
from tests.support.reference import greedy
from tests.support.split_models import SplitModel, random_tokens, split

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
COMMON = (Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.Q6_K, Kind.Q8_0)
OTHERS = (Kind.F32, Kind.Q5_0, Kind.Q5_1, Kind.Q2_K, Kind.Q3_K, Kind.Q5_K, Kind.IQ4_NL, Kind.IQ4_XS)
CASES = [(family, kind) for family in FAMILIES for kind in COMMON]
CASES += [("llama", kind) for kind in OTHERS]
MAX_TOKENS = 24
# As in the comparison of split checkpoints; logits here are as large.
MAX_ERROR = 1e-4


def _model(family: str, tied: bool = False) -> RandomModel:
    """Rows of 256 numbers, the least that formats of llama.cpp's K kind hold.

    Heads of 128 in Qwen3: of these files transformers reads no other size.
    """
    return RandomModel(
        family,
        num_layers=3,
        hidden_size=256,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128 if family == "qwen3" else 64,
        tied=tied,
        seed=5,
    )


def _reference(path: Path) -> PreTrainedModel:
    """transformers' own reading of the file."""
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


def _greedy_ids(parts: SplitModel, prompt: tuple[int, ...], count: int) -> list[int]:
    ids: list[int] = []
    logits = parts.logits(prompt, 0)
    while True:
        ids.append(int(logits[-1].argmax()))
        if len(ids) == count:
            return ids
        logits = parts.logits(ids[-1:], len(prompt) + len(ids) - 1)


@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda value: getattr(value, "name", value))
def test_the_ids_of_a_split_file_are_those_of_transformers(
    tmp_path: Path, family: str, kind: Kind
) -> None:
    make_random_model(_model(family, tied=kind in (Kind.Q4_K, Kind.Q8_0)), tmp_path / "model")
    path = tmp_path / "model.gguf"
    # llama.cpp's converter calls Mistral's models so.
    architecture = "llama" if family == "mistral" else family
    write_gguf(tmp_path / "model", path, GgufSettings(kind, architecture))
    split(path, tmp_path / "out", 1, 1)
    parts, reference = SplitModel(tmp_path / "out"), _reference(path)
    prompt = random_tokens(9, 256)
    expected = greedy(reference, prompt, MAX_TOKENS, ignore_eos=True)
    assert _greedy_ids(parts, prompt, MAX_TOKENS) == list(expected.ids)
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt])).logits[0]
    came = SplitModel(tmp_path / "out").logits(prompt, 0)
    assert (came - logits).abs().max() <= MAX_ERROR * max(1.0, float(logits.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_float_file_holds_is_the_checkpoint_it_was_made_of(
    tmp_path: Path, family: str
) -> None:
    make_random_model(_model(family), tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf")
    from_folder = split(tmp_path / "model", tmp_path / "one", 1)
    from_file = split(tmp_path / "model.gguf", tmp_path / "other", 1)
    assert from_file.device.tensors == from_folder.device.tensors
    assert from_file.device.fingerprint == from_folder.device.fingerprint
    assert from_file.device.eos_token_ids == from_folder.device.eos_token_ids


def test_the_fingerprint_is_of_the_numbers_that_are_served(tmp_path: Path) -> None:
    make_random_model(_model("llama"), tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "a.gguf", GgufSettings(Kind.Q4_0))
    write_gguf(tmp_path / "model", tmp_path / "b.gguf", GgufSettings(Kind.Q8_0))
    a, b = (split(tmp_path / f"{name}.gguf", tmp_path / name, 1).device for name in "ab")
    cast = split(tmp_path / "a.gguf", tmp_path / "cast", 1, dtype="bfloat16").device
    assert len({a.fingerprint, b.fingerprint, cast.fingerprint}) == 3
    assert a.dtype == "float32"
    assert cast.source_fingerprint == a.fingerprint


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_biases_are_found_and_in_order(tmp_path: Path, family: str) -> None:
    biases = {"attention_bias": True} | ({"mlp_bias": True} if family == "llama" else {})
    model = RandomModel(family, num_layers=2, extra=biases)
    make_random_model(model, tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf")
    from_folder = split(tmp_path / "model", tmp_path / "one", 1)
    from_file = split(tmp_path / "model.gguf", tmp_path / "other", 1)
    assert from_file.device.fingerprint == from_folder.device.fingerprint


LLAMA_3_2 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_the_scaling_of_llama_3_is_found_again(tmp_path: Path) -> None:
    scaling = LLAMA_3_2
    model = RandomModel(num_layers=2, head_dim=64, extra={"rope_parameters": scaling})
    make_random_model(model, tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf")
    from_folder = split(tmp_path / "model", tmp_path / "one", 1)
    from_file = split(tmp_path / "model.gguf", tmp_path / "other", 1)
    assert from_file.device.rope_parameters == from_folder.device.rope_parameters
    assert from_file.device.shape.rope == from_folder.device.shape.rope
    assert from_file.device.fingerprint == from_folder.device.fingerprint
    config = json.loads((tmp_path / "other" / "cloud" / "config.json").read_text())
    assert config["rope_parameters"] == scaling


@pytest.mark.parametrize("scaling", ["llama3", "linear"])
def test_verifying_gives_transformers_the_scaling_that_it_does_not_read(
    tmp_path: Path, scaling: str
) -> None:
    make_random_model(RandomModel(num_layers=2, head_dim=64), tmp_path / "model")
    how = GgufSettings(settings={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0})
    if scaling == "llama3":
        how = GgufSettings(tensors={"rope_freqs.weight": llama3_factors(LLAMA_3_2, 64)})
    # The base of which the factors are.
    how = replace(how, settings={**how.settings, "rope.freq_base": 500_000.0})
    path = tmp_path / "model.gguf"
    write_gguf(tmp_path / "model", path, how)
    split(path, tmp_path / "out", 1)
    prompt = random_tokens(40, 256)
    answer = UnsplitModel(path, "float32").greedy(prompt, 12)
    ids = _greedy_ids(SplitModel(tmp_path / "out"), prompt, len(answer.ids))
    assert ids == list(answer.ids)


def test_a_model_in_parts_is_not_compared_with_a_part_of_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it reads no GGUF model in parts"):
        UnsplitModel(tmp_path / "many-00001-of-00002.gguf", "float32")
