"""From config.json to a shape: what is read, and what is refused by name."""

import math
from typing import Any

import pytest

from submodels.errors import UnsupportedModelError
from submodels.plan.loading import loaded_config
from submodels.plan.plan import read_model

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    base = {"model_type": family, "architectures": [f"{names[family]}ForCausalLM"]}
    return LLAMA | base | changes


def test_a_plain_llama_has_no_additions() -> None:
    shape = read_model(LLAMA).shape
    assert (shape.num_layers, shape.hidden_size, shape.head_dim) == (4, 64, 16)
    assert (shape.num_attention_heads, shape.num_key_value_heads) == (4, 2)
    assert shape.sliding_windows == (None,) * 4
    additions = (shape.qkv_bias, shape.output_bias, shape.mlp_bias, shape.qk_norm)
    assert additions == (False,) * 4
    assert shape.rope.inv_freq[0] == 1.0
    assert shape.max_context_tokens == 128


@pytest.mark.parametrize(
    ("family", "qkv_bias", "output_bias", "qk_norm"),
    [
        ("llama", False, False, False),
        ("mistral", False, False, False),
        ("qwen2", True, False, False),
        ("qwen3", False, False, True),
    ],
)
def test_each_family_adds_what_its_model_code_adds(
    family: str, qkv_bias: bool, output_bias: bool, qk_norm: bool
) -> None:
    shape = read_model(config_of(family, sliding_window=None)).shape
    assert (shape.qkv_bias, shape.output_bias, shape.qk_norm) == (qkv_bias, output_bias, qk_norm)


def test_reading_leaves_the_configuration_as_it_was() -> None:
    config = LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}}
    read_model(config)
    assert config["rope_scaling"] == {"type": "linear", "factor": 4.0}


def test_absent_keys_mean_what_transformers_takes_them_to_mean() -> None:
    without_head_dim = read_model(config_of("qwen3")).shape
    assert without_head_dim.head_dim == 128
    del (config := config_of("mistral"))["num_key_value_heads"]
    assert read_model(config | {"num_attention_heads": 8, "sliding_window": None}).shape == (
        read_model(
            config | {"num_attention_heads": 8, "num_key_value_heads": 8} | {"sliding_window": None}
        ).shape
    )


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 4.0},
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ],
)
def test_old_and_new_rope_keys_give_the_same_model(scaling: dict[str, Any]) -> None:
    old = read_model(LLAMA | {"rope_theta": 5000.0, "rope_scaling": scaling})
    (new_config := dict(LLAMA)).pop("rope_theta")
    rope_type = scaling.get("rope_type", scaling.get("type"))
    parameters = {"rope_theta": 5000.0, **scaling, "rope_type": rope_type}
    new = read_model(new_config | {"rope_parameters": parameters})
    assert new.shape == old.shape
    assert new.rope_parameters == old.rope_parameters


def test_linear_rope_divides_every_frequency() -> None:
    plain = read_model(LLAMA).shape.rope
    scaled = read_model(LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}}).shape.rope
    assert scaled.inv_freq == pytest.approx([x / 4 for x in plain.inv_freq], rel=1e-6)


def test_llama3_rope_keeps_fast_frequencies_and_divides_slow_ones() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    plain = read_model(LLAMA).shape.rope
    scaled = read_model(LLAMA | {"rope_scaling": scaling}).shape.rope
    assert scaled.inv_freq[0] == plain.inv_freq[0]
    assert scaled.inv_freq[-1] == pytest.approx(plain.inv_freq[-1] / 8, rel=1e-6)


def test_yarn_scales_attention_and_lengthens_the_context() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    shape = read_model(LLAMA | {"rope_scaling": scaling}).shape
    assert shape.rope.attention_scaling == pytest.approx(0.1 * math.log(4.0) + 1)
    assert shape.max_context_tokens == 512
    stretched = read_model(LLAMA | {"rope_scaling": scaling, "max_position_embeddings": 512})
    assert stretched.shape.max_context_tokens == 512
    longer = read_model(LLAMA | {"rope_scaling": scaling, "max_position_embeddings": 2048})
    assert longer.shape.max_context_tokens == 2048


@pytest.mark.parametrize(
    "change",
    [
        {"factor": 2.0},
        {"original_max_position_embeddings": 64},
        {"attention_factor": 1.5},
        {"beta_fast": 16.0},
        {"beta_slow": 8.0},
        {"mscale": 0.7, "mscale_all_dim": 0.5},
        {"truncate": False},
    ],
    ids=str,
)
def test_whatever_changes_the_rotary_numbers_is_among_what_the_fingerprint_covers(
    change: dict[str, Any],
) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    one = read_model(LLAMA | {"rope_scaling": scaling})
    other = read_model(LLAMA | {"rope_scaling": scaling | change})
    assert one.shape.rope != other.shape.rope
    assert one.rope_parameters != other.rope_parameters


def test_mistral_slides_in_all_layers_or_none() -> None:
    assert read_model(config_of("mistral", sliding_window=9)).shape.sliding_windows == (9,) * 4
    assert read_model(config_of("mistral", sliding_window=None)).shape.sliding_windows == (
        (None,) * 4
    )


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_qwen_slides_from_max_window_layers_on_or_where_layer_types_say(family: str) -> None:
    windows = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3}
    assert read_model(config_of(family, **windows)).shape.sliding_windows == (None, None, None, 9)
    kinds = ["sliding_attention", "full_attention"] * 2
    listed = read_model(config_of(family, **windows, layer_types=kinds)).shape
    assert listed.sliding_windows == (9, None, 9, None)
    unused = windows | {"use_sliding_window": False}
    assert read_model(config_of(family, **unused)).shape.sliding_windows == (None,) * 4


REFUSED = {
    "'falcon'": {"model_type": "falcon"},
    "llama, mistral, qwen2, qwen3": {"model_type": "deepseek_v3"},
    "model type None": {"model_type": None},
    "LlamaForSequenceClassification": {"architectures": ["LlamaForSequenceClassification"]},
    "activation 'gelu'": {"hidden_act": "gelu"},
    "rope_theta: expected a number, got '1e4'": {"rope_theta": "1e4"},
    "factor: expected a number, got '2.0'": {"rope_scaling": {"type": "linear", "factor": "2.0"}},
    "rope type 'longrope'": {
        "rope_scaling": {
            "rope_type": "longrope",
            "factor": 2.0,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
        }
    },
    "rope type 'invented'": {"rope_scaling": {"rope_type": "invented"}},
    "partial_rotary_factor is 0.5": {"partial_rotary_factor": 0.5},
    "rope parameters per layer type": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    },
    "'rope_type'='linear': {'factor'}": {"rope_scaling": {"rope_type": "linear"}},
    "num_layers: expected a whole number": {"num_hidden_layers": 10**15},
    "vocab_size: expected a whole number": {"vocab_size": 0},
    "head_dim: expected a whole number": {"head_dim": "16"},
    "multiple of key-value heads": {"num_key_value_heads": 3},
    "layer_types": {"layer_types": ["sliding_attention"] * 4},
}


@pytest.mark.parametrize(("named", "changes"), REFUSED.items(), ids=REFUSED.keys())
def test_what_cannot_be_computed_right_is_refused_by_name(
    named: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        read_model(LLAMA | changes)
    assert named in str(refused.value)


def test_qwen_layer_kinds_that_are_not_attention_over_keys_are_refused() -> None:
    for changes in (
        {"layer_types": ["linear_attention"] * 4},
        {"layer_types": ["sliding_attention"] * 4, "use_sliding_window": False},
    ):
        with pytest.raises(UnsupportedModelError, match="layer type"):
            read_model(config_of("qwen3", **changes))


def test_mistral_with_layer_types_is_refused_since_transformers_would_ignore_them() -> None:
    with pytest.raises(UnsupportedModelError, match="layer_types"):
        read_model(config_of("mistral", sliding_window=8, layer_types=["full_attention"] * 4))


def test_the_other_name_of_an_activation_is_the_same_one() -> None:
    assert read_model(LLAMA | {"hidden_act": "swish"}).shape.hidden_act == "silu"


def test_a_model_that_the_installed_transformers_does_not_know_is_named() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"transformers [\d.]+ has no NobodysConfig: a newer"
    ):
        loaded_config("NobodysConfig", LLAMA)
