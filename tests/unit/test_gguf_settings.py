"""What a GGUF file does not say, and what it says in other words than a config.json."""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from submodels.checkpoint.gguf import family_settings
from submodels.checkpoint.gguf.file import GgufFile, read_gguf
from submodels.checkpoint.gguf.rope import rope_parameters
from submodels.checkpoint.gguf.tensors import gguf_tensors
from submodels.errors import CheckpointError

SLIDING, FULL = "sliding_attention", "full_attention"


def _file(architecture: str, **settings: Any) -> GgufFile:
    named = {f"{architecture}.{name.replace('__', '.')}": each for name, each in settings.items()}
    return GgufFile(Path("a.gguf"), {"general.architecture": architecture, **named}, {})


def _gemma(architecture: str, **settings: Any) -> GgufFile:
    sizes = {"block_count": 4, "embedding_length": 3584, "attention__head_count": 16}
    window = {"attention__sliding_window": 512, "attention__key_length": 256}
    return _file(architecture, **{**sizes, **window, **settings})


@pytest.mark.parametrize(
    ("read", "settings", "scalar"),
    [
        (family_settings.gemma2, {"block_count": 42}, 256),
        (family_settings.gemma2, {"block_count": 46, "embedding_length": 4608}, 288),
        (family_settings.gemma3, {"block_count": 34}, 256),
        (family_settings.gemma3, {"block_count": 62, "embedding_length": 5376}, 336),
    ],
)
def test_the_largest_gemma_scales_scores_by_its_width(
    read: Any, settings: dict[str, Any], scalar: int
) -> None:
    architecture = read.__name__
    assert read(_gemma(architecture, **settings))["query_pre_attn_scalar"] == scalar


def test_caps_that_old_files_of_gemma_2_do_not_say_are_those_of_all_its_models() -> None:
    read = family_settings.gemma2(_gemma("gemma2"))
    assert (read["attn_logit_softcapping"], read["final_logit_softcapping"]) == (50.0, 30.0)
    read = family_settings.gemma2(_gemma("gemma2", attn_logit_softcapping=7.0))
    assert read["attn_logit_softcapping"] == 7.0


@pytest.mark.parametrize(
    ("pattern", "types"),
    [
        (None, [SLIDING, FULL, SLIDING, FULL]),
        (3, [SLIDING, SLIDING, FULL, SLIDING]),
        (1, [FULL] * 4),
        (0, [SLIDING] * 4),
        ([True, False, False, True], [SLIDING, FULL, FULL, SLIDING]),
    ],
)
def test_which_layers_slide_is_told_by_a_period_or_one_by_one(
    pattern: Any, types: list[str]
) -> None:
    told = {} if pattern is None else {"attention__sliding_window_pattern": pattern}
    assert family_settings.gemma2(_gemma("gemma2", **told))["layer_types"] == types


@pytest.mark.parametrize("pattern", [[True], -1, "x", 2.0, True])
def test_another_pattern_is_refused(pattern: Any) -> None:
    with pytest.raises(CheckpointError, match="sliding_window_pattern as a number or 4 of them"):
        family_settings.gemma2(_gemma("gemma2", attention__sliding_window_pattern=pattern))


def test_without_a_window_nothing_slides() -> None:
    read = family_settings.gemma3(_gemma("gemma3", attention__sliding_window=0))
    assert (read["sliding_window"], read["layer_types"]) == (None, [FULL] * 4)


@pytest.mark.parametrize(
    ("architecture", "settings", "factor"),
    [
        ("qwen2", {}, None),
        ("qwen2", {"yarn_attn_factor": 1.25}, 1.25),
        ("qwen2", {"yarn_attn_factor": 1.0}, 1.0),
        ("qwen2", {"attn_factor": 2.0}, 2 * (0.1 * math.log(4) + 1)),
        ("olmo2", {"attn_factor": 1.25}, 1.25),
    ],
)
def test_yarns_factor_on_attention_is_as_the_converter_writes_it(
    architecture: str, settings: dict[str, float], factor: float | None
) -> None:
    named = {f"rope__scaling__{name}": value for name, value in settings.items()}
    yarn = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}
    file = _gemma(architecture, context_length=128, **yarn, **named)
    assert rope_parameters(file).get("attention_factor") == factor


def test_gates_above_their_factors_in_one_tensor_become_two_matrices(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "qwen3moe")
    writer.add_uint32("qwen3moe.expert_count", 3)
    whole = np.arange(3 * 8 * 4, dtype=np.float32).reshape(3, 8, 4)
    writer.add_tensor("blk.1.ffn_gate_up_exps.weight", whole)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = gguf_tensors(read_gguf(tmp_path / "a.gguf"), 4)
    assert len(tensors) == 6
    for expert in range(3):
        for kind, rows in (("gate", whole[expert, :4]), ("up", whole[expert, 4:])):
            tensor = tensors[f"model.layers.1.mlp.experts.{expert}.{kind}_proj.weight"]
            assert tensor.shape == (4, 4)
            assert b"".join(tensor.pieces()) == rows.tobytes()


def test_experts_of_old_files_of_mixtral_are_one_by_one(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_uint32("llama.expert_count", 2)
    for kind in ("gate", "up", "down"):
        writer.add_tensor(f"blk.3.ffn_{kind}.1.weight", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    names = gguf_tensors(read_gguf(tmp_path / "a.gguf"), 4).keys()
    begin = "model.layers.3.block_sparse_moe.experts.1"
    assert names == {f"{begin}.w1.weight", f"{begin}.w3.weight", f"{begin}.w2.weight"}
