"""Folders with a model in another form are named for what they are, with what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from submodels.errors import SplitError
from submodels.random_models import RandomModel, make_random_model
from tests.support.split_models import split


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_random_model(RandomModel(num_layers=2), tmp_path / "model")
    return tmp_path / "model"


def _put(name: str, text: str = "{}") -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).write_text(text)

    return put


def _mlx(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    told = {"group_size": 64, "bits": 4}
    path.write_text(json.dumps({**config, "quantization": told, "quantization_config": told}))


def _only(*names: str) -> Callable[[Path], None]:
    """Keep config.json and the tokenizer, and put these beside them instead of weights."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        for name in names:
            (folder / name).write_bytes(b"")

    return change


def _consolidated(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "params.json").write_text("{}")


def _below(folder: Path) -> None:
    shutil.copytree(folder, folder / "checkpoint-10")
    (folder / "config.json").unlink()


def _tekken(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tekken.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_put("hf_quant_config.json"), "by NVIDIA's ModelOpt, as hf_quant_config.json says: split"),
        (_put("quantize_config.json"), "quant_method 'gptq', and no tensor is quantised so"),
        (_put("quant_config.json"), "quant_method 'awq', and no tensor is quantised so"),
        (_mlx, "was quantised by MLX: split the unquantised model"),
        (_put("adapter_config.json"), "holds a model and an adapter of PEFT.* ADAPTER --base"),
        (_only("pytorch_model.bin"), "pytorch_model.bin is pickled.*save_pretrained"),
        (_only("consolidated.00.pth"), "consolidated.00.pth is pickled"),
        (_only("weights.safetensors"), "weights.safetensors has another name"),
        (_only(), "such as owner/model:Q4_K_M"),
        (_consolidated, "in which Meta and Mistral publish weights"),
        (_below, "there is no config.json; checkpoint-10 in it has one"),
        (_tekken, r"own tokenizer alone \(tekken.json\): put the tokenizer.json"),
    ],
)
def test_another_form_is_named_with_what_to_do(
    model: Path, tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    change(model)
    with pytest.raises(SplitError, match=words) as refused:
        split(model, tmp_path / "out", 1)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
