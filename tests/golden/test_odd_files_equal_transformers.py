"""Weights that lie otherwise than usual: what transformers makes of such files, or a refusal."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from submodels.errors import CheckpointError
from submodels.random_models import RandomModel, make_random_model
from tests.support.split_models import SplitModel, random_tokens, reference_logits, split

MODEL = RandomModel(num_layers=3, max_context_tokens=64)
TIED = RandomModel(num_layers=3, max_context_tokens=64, tied=True)
Tensors = dict[str, Tensor]
CHANGED = "model.layers.0.mlp.up_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def read(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def write(folder: Path, tensors: Tensors, name: str = "model.safetensors") -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    save_file({key: value.clone() for key, value in tensors.items()}, folder / name)


def halves(tensors: Tensors) -> tuple[Tensors, Tensors]:
    first = {name: value for name, value in tensors.items() if ".layers." in name}
    return first, {name: value for name, value in tensors.items() if name not in first}


def sharded(folder: Path, shards: Mapping[str, Tensors], **said: str) -> None:
    """Write shards and their index, which says of some tensors something else."""
    (folder / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for file_name, tensors in shards.items():
        write(folder, tensors, file_name)
        weight_map |= dict.fromkeys(tensors, file_name)
    weight_map |= {name.replace("__", "."): file_name for name, file_name in said.items()}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def head_for_an_embedding(folder: Path) -> None:
    tensors = read(folder)
    tensors[HEAD] = tensors.pop(EMBEDDING)
    write(folder, tensors)


def without_prefix(folder: Path) -> None:
    write(folder, {name.removeprefix("model."): value for name, value in read(folder).items()})


def overlay(folder: Path) -> None:
    """A file that replaces a tensor of another, as publishers of changed models do it."""
    first, second = halves(read(folder))
    changed = {CHANGED: first[CHANGED] / 2}
    sharded(
        folder, {"m-1.safetensors": first, "m-2.safetensors": second, "over.safetensors": changed}
    )


def twice(folder: Path) -> None:
    first, second = halves(read(folder))
    second[CHANGED] = first[CHANGED]
    sharded(folder, {"1.safetensors": first, "2.safetensors": second}, **{CHANGED: "1.safetensors"})


def index_of_more(folder: Path) -> None:
    """It names a tensor that is nowhere, and another one's file wrongly."""
    first, second = halves(read(folder))
    shards = {"1.safetensors": first, "2.safetensors": second}
    sharded(folder, shards, mtp__fc__weight="2.safetensors", model__norm__weight="1.safetensors")


def shards_in_a_folder(folder: Path) -> None:
    first, second = halves(read(folder))
    sharded(folder, {"weights/1.safetensors": first, "weights/2.safetensors": second})


def layers_for_training(folder: Path) -> None:
    """What others leave beside a model: a value head, drafts, one layer more, scales of caches."""
    tensors = read(folder)
    further = {n.replace("layers.2", "layers.3"): t for n, t in tensors.items() if "layers.2" in n}
    further |= {"v_head.summary.weight": torch.ones(1, 64), "mtp.fc.weight": torch.ones(64, 128)}
    further["model.layers.1.self_attn.k_scale"] = torch.ones(1)
    further["model.layers.1.self_attn.rotary_emb.cos_cached"] = torch.ones(1, 1, 8, 16)
    write(folder, {**tensors, **further})


@pytest.mark.parametrize(
    ("change", "model"),
    [
        (head_for_an_embedding, TIED),
        (without_prefix, MODEL),
        (without_prefix, TIED),
        (overlay, MODEL),
        (twice, MODEL),
        (index_of_more, MODEL),
        (shards_in_a_folder, MODEL),
        (layers_for_training, MODEL),
    ],
)
def test_weights_in_odd_files_are_those_that_transformers_reads(
    tmp_path: Path, change: Callable[[Path], None], model: RandomModel
) -> None:
    make_random_model(model, tmp_path / "model")
    change(tmp_path / "model")
    split(tmp_path / "model", tmp_path / "out", 1, 1)
    token_ids = random_tokens(20, model.vocab_size)
    logits = SplitModel(tmp_path / "out").logits(token_ids, 0)
    torch.testing.assert_close(
        logits, reference_logits(tmp_path / "model", token_ids), rtol=0, atol=1e-5
    )


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    make_random_model(MODEL, tmp_path / "model")
    layers_for_training(tmp_path / "model")
    left_out = split(tmp_path / "model", tmp_path / "out", 1).left_out
    assert {"v_head.summary.weight", "mtp.fc.weight", "model.layers.1.self_attn.k_scale"} <= {
        *left_out
    }
    assert len(left_out) == 12, "and the nine of a fourth layer"


def disagreeing(folder: Path) -> None:
    first, second = halves(read(folder))
    second[CHANGED] = first[CHANGED] / 2
    sharded(folder, {"1.safetensors": first, "2.safetensors": second}, **{CHANGED: "1.safetensors"})


def bias_that_nothing_adds(folder: Path) -> None:
    write(folder, {**read(folder), "model.layers.0.self_attn.q_proj.bias": torch.ones(64)})


def bias_of_the_head(folder: Path) -> None:
    write(folder, {**read(folder), "lm_head.bias": torch.ones(MODEL.vocab_size)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (disagreeing, "with other numbers"),
        (bias_that_nothing_adds, r"holds unknown tensors \(1\): .*q_proj\.bias"),
        (bias_of_the_head, r"holds unknown tensors \(1\): lm_head\.bias"),
        (head_for_an_embedding, r"lacks tensors \(1\): model\.embed_tokens\.weight"),
    ],
)
def test_what_may_mean_other_numbers_is_refused(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    make_random_model(MODEL, tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(CheckpointError, match=said):
        split(tmp_path / "model", tmp_path / "out", 1)
