"""What a manifest says of layers that are not Llama's, and what is refused by name."""

import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from transformers import CONFIG_MAPPING

from adapters.model_kinds import why_not_known
from adapters.storage import AdapterError, adapter_shape
from hat.commands.split import split as split_command
from submodels.bundle.bundle import load_bundle
from submodels.checkpoint.fused import RowsOf
from submodels.errors import BundleError, UnsupportedModelError
from submodels.manifest import Description, Experts, Heads, Rope
from submodels.plan.checks import check_ropes, check_shape
from submodels.plan.families import FAMILIES
from submodels.plan.plan import read_model
from submodels.plan.wrappers import WRAPPERS, text_config
from submodels.random_models import make_random_model
from submodels.rotation.rotated import check_rotatable
from tests.support.family_models import FAMILY_MODELS
from tests.support.family_table import README, with_fresh_table
from tests.support.split_models import VARIANTS, split

PLAIN = ("llama", "mistral", "qwen2", "qwen3")
DESCRIBED = sorted(
    name
    for name, family in FAMILIES.items()
    if name not in (*PLAIN, "phi3") and not family.layers_of
)
"""Phi-3's are Llama's but where it turns heads in part."""
CONFIG = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    # Gemma 4's own default is that of its smaller models.
    "hidden_size_per_layer_input": 0,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def _shape(model_type: str, **changes: Any) -> Any:
    return read_model({**CONFIG, "model_type": model_type, **changes}).shape


@pytest.mark.parametrize("model_type", PLAIN)
def test_llamas_and_their_like_have_no_description(model_type: str) -> None:
    shape = _shape(model_type, sliding_window=None)
    assert shape.description is msgspec.UNSET
    assert "description" not in msgspec.to_builtins(shape)


def test_a_bundle_of_before_keeps_its_fingerprint(tmp_path: Path) -> None:
    """Made by this program before there were descriptions; adapters are bound to it."""
    make_random_model(VARIANTS["qwen2"], tmp_path / "model")
    split(tmp_path / "model", tmp_path / "out", 1, 1)
    manifest = json.loads((tmp_path / "out" / "device" / "hat.json").read_text())
    assert manifest["fingerprint"].startswith("39a304d881c4dc8b")
    assert "description" not in manifest["shape"]


@pytest.mark.parametrize("model_type", DESCRIBED)
def test_other_families_say_what_sets_them_apart_and_are_read_back(model_type: str) -> None:
    shape = _shape(model_type)
    told = msgspec.json.encode(shape)
    assert msgspec.json.decode(told, type=type(shape)) == shape
    assert json.loads(told)["description"], "only what differs is written"
    check_shape(shape)


def test_every_other_type_of_transformers_is_refused_by_name_with_what_would_help() -> None:
    others = sorted(set(CONFIG_MAPPING) - set(FAMILIES) - set(WRAPPERS))
    assert len(others) > 200
    for model_type in others:
        with pytest.raises(UnsupportedModelError) as caught:
            text_config({"model_type": model_type})
        said = str(caught.value)
        assert said.startswith(f"model type '{model_type}' is not supported: it ")
        assert "\n" not in said
        assert re.search("; (split a|transformers or vLLM may run it unsplit)", said), said


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "qwen3_5", "text_config": {"linear_num_key_heads": 16}}, "state of their"),
        ({"model_type": "mamba2", "state_size": 128}, "a state of their own"),
        ({"model_type": "lfm2", "conv_L_cache": 3}, "a state of their own"),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512, "n_routed_experts": 8}, "latent atten"),
        ({"model_type": "gemma3n", "text_config": {"vocab_size_per_layer_input": 9}}, "in every l"),
        ({"model_type": "qwen2_moe", "num_experts": 60}, "it has experts of another kind"),
        ({"model_type": "starcoder2", "num_experts": 0}, "layers that no row of the table"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "an encoder and a decoder"),
        ({"model_type": "siglip_vision_model"}, "does not write text, token after token"),
        (
            {"model_type": "aya_vision", "text_config": {"model_type": "cohere2"}},
            "its language model is a 'cohere2', but not what is around it",
        ),
        (
            {"model_type": "internvl_chat", "auto_map": {"AutoConfig": "x.Y"}},
            r"never run, and transformers \S+ has none; some .* \(-hf\)",
        ),
        ({"model_type": "of_next_year"}, r"transformers \S+ does not know it; a newer"),
        ({"model_type": ["llama"]}, r"model type \['llama'\] is not supported"),
        ({}, "model type None is not supported"),
    ],
)
def test_a_refusal_says_why(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        text_config(config)


def test_a_description_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    make_random_model(FAMILY_MODELS["granite"], tmp_path / "model")
    split(tmp_path / "model", tmp_path / "out", 1, 0)
    path = tmp_path / "out" / "cloud" / "hat.json"
    manifest = json.loads(path.read_text())
    manifest["shape"]["description"]["residual_scale"] = 0.7
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="fingerprint"):
        load_bundle(path.parent, "cloud")


def test_rotary_numbers_that_their_parameters_do_not_give_are_refused(tmp_path: Path) -> None:
    make_random_model(FAMILY_MODELS["olmo3"], tmp_path / "model")
    split(tmp_path / "model", tmp_path / "out", 1, 0)
    path = tmp_path / "out" / "cloud" / "hat.json"
    manifest = json.loads(path.read_text())
    (other,) = manifest["shape"]["description"]["other_ropes"]
    other["inv_freq"][1] *= 3
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="rope: frequency 1 is"):
        load_bundle(path.parent, "cloud")


_EXPERTS = Experts(
    num_experts=4, num_chosen=2, inner_size=8, router="r", gate="a.{}", up="b.{}", down="c.{}"
)
_BESIDE = Experts(
    **{name: getattr(_EXPERTS, name) for name in ("num_experts", "num_chosen", "inner_size")},
    **{name: name[:3] for name in ("router", "gate", "up", "down", "before", "after")},
    **{name: name[-7:] for name in ("after_gated", "router_scale", "expert_scale")},
    are_stacked=True,
    has_halves=True,
)
_HEADS = Heads(head_dim=32, num_key_value_heads=1)
BROKEN = {
    "expected 4 layer_ropes": {"layer_ropes": (0,)},
    "layer_ropes: expected 0 to 0": {"layer_ropes": (0, 1, 0, 0)},
    "rotary_dim: expected an even": {"rotary_dim": 32},
    "rope: expected rotary_dim / 2 = 4": {"rotary_dim": 8},
    "attention_softcap: expected a finite": {"attention_softcap": 0.0},
    "residual_scale: expected a finite": {"residual_scale": float("inf")},
    "norm_offset: expected a finite": {"norm_offset": float("nan")},
    "norms: expected different names": {"after_mlp": "input_layernorm"},
    "expected the name of a tensor": {"before_mlp": "../secret"},
    "expected 1 to 4 chosen": {"experts": msgspec.structs.replace(_EXPERTS, num_chosen=5)},
    "three different names": {"experts": msgspec.structs.replace(_EXPERTS, up="a.{}")},
    "beside a gated half: expected different names": {
        "experts": msgspec.structs.replace(_BESIDE, after="")
    },
    "beside a gated half: expected stacked ones": {
        "experts": msgspec.structs.replace(_BESIDE, are_stacked=False)
    },
    "num_experts: expected a whole": {
        "experts": msgspec.structs.replace(_EXPERTS, num_experts=10**9)
    },
    "expected 4 layer_heads": {"layer_heads": (0,)},
    "layer_heads: expected 0 to 0": {"layer_heads": (0, 1, 0, 0)},
    "expected at most 4 kinds of heads": {"other_heads": (_HEADS,) * 4},
    "rope 0: expected heads of one size, got": {
        "other_heads": (_HEADS,),
        "layer_heads": (0, 1, 0, 0),
    },
    "a multiple of key-value heads, got 4 and 3": {
        "other_heads": (Heads(head_dim=16, num_key_value_heads=3),)
    },
    "head_dim: expected a whole": {"other_heads": (Heads(head_dim=0, num_key_value_heads=2),)},
    "keys_are_values: expected heads that turn whole": {
        "keys_are_values": True,
        "is_interleaved": True,
    },
    "and are normed one by one": {"other_heads": (_HEADS,), "qk_norm_over": "width"},
    "got 3": {"other_ropes": (Rope(inv_freq=(1.0, 0.5, 0.1)),)},
}


@pytest.mark.parametrize(("named", "changes"), BROKEN.items(), ids=BROKEN.keys())
def test_a_description_that_no_model_can_have_is_refused(
    named: str, changes: dict[str, Any]
) -> None:
    shape = msgspec.structs.replace(_shape("llama"), description=Description(**changes))
    with pytest.raises(ValueError, match=named):
        check_shape(shape)


LONG = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0 + 0.1 * index for index in range(8)],
        "long_factor": [2.0 + 0.5 * index for index in range(8)],
        "original_max_position_embeddings": 64,
    },
    "original_max_position_embeddings": 64,
    "sliding_window": None,
}


def test_longrope_ends_where_its_frequencies_change_or_takes_those_behind() -> None:
    config = {**CONFIG, "model_type": "phi3", **LONG}
    for is_long, most, divisor in ((False, 64, 1.7), (True, 128, 5.5)):
        model = read_model(config, is_long)
        shape = model.shape
        assert shape.max_context_tokens == most
        assert shape.rope.inv_freq[7] == pytest.approx(1e4 ** (-14 / 16) / divisor)
        assert shape.rope.attention_scaling == pytest.approx(math.sqrt(1 + 1 / 6))
        check_ropes(shape, model.rope_parameters)
        wrong = {**model.rope_parameters, "factor": 3.0}
        with pytest.raises(ValueError, match=r"attention_scaling is .*, expected"):
            check_ropes(shape, wrong)
        name = "long_factor.7" if is_long else "short_factor.7"
        with pytest.raises(ValueError, match=r"frequency 7 is .*, expected"):
            check_ropes(shape, {**model.rope_parameters, name: 2.0})
        del wrong[name]
        with pytest.raises(ValueError, match="expected a divisor of frequency 7"):
            check_ropes(shape, wrong)


def test_the_choice_of_longrope_is_refused_where_there_is_none() -> None:
    with pytest.raises(UnsupportedModelError, match="no LongRoPE to choose from"):
        read_model({**CONFIG, "model_type": "phi3", "sliding_window": None}, True)
    within = {**LONG, "original_max_position_embeddings": 128}
    with pytest.raises(UnsupportedModelError, match="no LongRoPE to choose from"):
        read_model({**CONFIG, "model_type": "phi3", **within}, True)


REFUSED = {
    "experts in some layers only": ("qwen3_moe", {"mlp_only_layers": [1]}),
    "use_bidirectional_attention": ("gemma3_text", {"use_bidirectional_attention": True}),
    "activation 'gelu'": ("gemma2", {"hidden_activation": "gelu"}),
}


@pytest.mark.parametrize(("named", "case"), REFUSED.items(), ids=REFUSED.keys())
def test_what_a_family_cannot_have_is_refused_by_name(
    named: str, case: tuple[str, dict[str, Any]]
) -> None:
    model_type, changes = case
    with pytest.raises(UnsupportedModelError, match=named):
        _shape(model_type, **changes)


@pytest.mark.parametrize(
    "model_type", ["olmo2", "gemma2", "gemma4_text", "cohere2", "glm4", "mixtral"]
)
def test_a_rotation_that_is_not_exact_is_refused_by_name(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"not exact for model type '{model_type}'"):
        check_rotatable(_shape(model_type))


@pytest.mark.parametrize("model_type", ["llama", "granite", "smollm3"])
def test_a_rotation_that_is_exact_is_made(model_type: str) -> None:
    check_rotatable(_shape(model_type))


def test_adapters_know_llamas_layers_only() -> None:
    assert adapter_shape(_shape("qwen3")).qk_norm is False
    with pytest.raises(AdapterError, match="of type 'granite' yet"):
        adapter_shape(_shape("granite"))
    assert why_not_known(_shape("llama")) is None


def test_experts_stay_in_the_cloud_unless_asked_for(tmp_path: Path) -> None:
    make_random_model(FAMILY_MODELS["mixtral"], tmp_path / "model")
    split(tmp_path / "model", tmp_path / "out", None, 0)  # type: ignore[arg-type]
    assert load_bundle(tmp_path / "out", "device").manifest.num_input_layers == 0
    with pytest.raises(UnsupportedModelError, match="experts cannot be written as ONNX"):
        split(tmp_path / "model", tmp_path / "two", 1, 0, onnx_weights=("float32",))


class _Source:
    name, dtype, shape, num_bytes = "whole", "F32", (5, 3), 60

    def pieces(self) -> Any:
        data = bytes(range(60))
        return iter([data[:7], data[7:40], data[40:]])


@pytest.mark.parametrize(("first", "end"), [(0, 5), (0, 2), (1, 4), (4, 5)])
def test_rows_of_a_fused_matrix_are_its_bytes(first: int, end: int) -> None:
    rows = RowsOf("part", _Source(), first, end)
    assert b"".join(rows.pieces()) == bytes(range(60))[first * 12 : end * 12]
    assert (rows.shape, rows.num_bytes) == ((end - first, 3), (end - first) * 12)


def test_the_table_of_families_in_the_readme_is_fresh() -> None:
    """Stale? `python -m tests.support.family_table` writes it."""
    text = README.read_text()
    assert with_fresh_table(text) == text


@pytest.mark.parametrize(("name", "is_told"), [("mixtral", True), ("granite", False)])
def test_a_split_without_layers_on_the_device_says_what_it_means(
    name: str, is_told: bool, tmp_path: Path
) -> None:
    make_random_model(FAMILY_MODELS[name], tmp_path / "model")
    flags = [str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(split_command, flags, catch_exceptions=False)
    assert answer.exit_code == 0
    assert ("which no ONNX file has: they are left to the cloud" in answer.output) is is_told
    assert ("so embeddings go up" in answer.output) is is_told
