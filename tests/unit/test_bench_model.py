"""`hat bench make-model`: a random checkpoint that splits and computes like a real one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from bench.model_shapes import SHAPES, ModelShape
from bench.models import has_real_weights, make_model
from hat.commands.bench_model import make_model as make_model_command
from submodels.bundle.bundle import load_bundle
from submodels.split import SplitOptions, split_checkpoint
from submodels.tensors.tensor_file import TensorFile

ROOT = Path(__file__).resolve().parents[2]
END_TOKEN_ID = 50_256
TEXT = [464, 24392, 550, 587, 1762, 845, 1327]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny"
    make_model("tiny", folder)
    return folder


def test_the_command_writes_a_checkpoint_and_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(make_model_command, ["tiny", "--out", str(tmp_path / "model")])
    assert result.exit_code == 0
    assert "3.2 million random parameters, seed 0" in result.output
    assert (tmp_path / "model" / "tokenizer.json").is_file()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    result = CliRunner().invoke(make_model_command, ["tiny", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert str(result.exception) == f"cannot write a model to {tmp_path}: {tmp_path} is not empty"
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    tiny: Path, tmp_path: Path
) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    make_model("tiny", again)
    make_model("tiny", other, seed=1)
    files = ("model.safetensors", "config.json")
    assert all((again / name).read_bytes() == (tiny / name).read_bytes() for name in files)
    assert all((other / name).read_bytes() != (tiny / name).read_bytes() for name in files)


def test_random_weights_are_marked_and_trained_ones_are_not(tiny: Path) -> None:
    assert not has_real_weights(tiny)
    assert has_real_weights(ROOT / "models" / "stories260k")
    assert has_real_weights(ROOT / "models" / "storybook-7m")


def test_no_two_tensors_or_pieces_of_one_are_the_same_numbers(tiny: Path) -> None:
    tensors = TensorFile(tiny / "model.safetensors")
    matrices = [name for name, info in tensors.tensors.items() if len(info.shape) == 2]
    firsts = {tensors.read(name)[0].tobytes() for name in matrices}
    assert len(firsts) == len(matrices)
    head = tensors.read("lm_head.weight").astype(np.float32)
    assert len({row.tobytes() for row in head}) == len(head)


@torch.inference_mode()
def test_transformers_computes_finite_logits_that_never_choose_the_end(tiny: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16)
    logits = network(torch.tensor([TEXT])).logits[0].float()
    assert torch.isfinite(logits).all()
    assert 2 < logits.std() < 4
    assert (logits[:, END_TOKEN_ID] == 0).all()
    assert (logits.amax(dim=-1) > 8).all()


def test_it_splits_into_bundles_that_hold_all_of_it(tiny: Path, tmp_path: Path) -> None:
    options = SplitOptions(str(tiny), tmp_path / "split", 1, onnx_weights=())
    out = split_checkpoint(options).out
    device, cloud = load_bundle(out, "device"), load_bundle(out, "cloud")
    assert device.manifest.num_middle_layers == cloud.manifest.num_middle_layers == 2
    assert device.manifest.eos_token_ids == (END_TOKEN_ID,)
    assert device.manifest.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("name", "num_vocabularies", "num_parameters"),
    [("110m", 1, 109_529_856), ("1.1b", 2, 1_100_048_384)],
)
def test_with_the_usual_vocabulary_of_32000_shapes_have_the_sizes_of_the_models_named(
    name: str, num_vocabularies: int, num_parameters: int
) -> None:
    shape = SHAPES[name]
    vocabularies = num_vocabularies * 32_000 * shape.hidden_size
    assert _num_layer_parameters(shape) + shape.hidden_size + vocabularies == num_parameters


def test_the_config_says_which_seed_made_it(tmp_path: Path) -> None:
    make_model("tiny", tmp_path / "m", seed=7)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["hat_random_weights"], config["hat_random_seed"]) == (True, 7)


def _num_layer_parameters(shape: ModelShape) -> int:
    """All but embedding, head and last norm."""
    width, kv_width = shape.hidden_size, shape.num_kv_heads * shape.head_dim
    attention = 2 * width * width + 2 * width * kv_width
    return shape.num_layers * (attention + 3 * width * shape.intermediate_size + 2 * width)
