"""Which class of vLLM's processes runs a middle, and what is refused by name."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cloud_server.config import CloudConfig
from cloud_server.engines.vllm import plugin, start
from cloud_server.engines.vllm.classes import MiddleClass, has_own_class, middle_class
from cloud_server.engines.vllm.engine import EngineShape
from cloud_server.engines.vllm.plugin import BASES, DESCRIBED, PREFIX
from process.errors import StartError
from submodels.manifest import Description, ModelShape
from submodels.plan.families import FAMILIES
from submodels.plan.plan import read_model
from tests.support.vllm_family_models import VLLM_MODELS
from wire.messages import Dtype

SIZES = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "sliding_window": None,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXED = {
    "use_sliding_window": True,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
MIDDLE = range(1, 3)


def _shape(model_type: str, **changes: Any) -> ModelShape:
    return read_model({**SIZES, "model_type": model_type, **changes}).shape


def _described(shape: ModelShape, **changes: Any) -> ModelShape:
    description = msgspec.structs.replace(shape.described, **changes)
    return msgspec.structs.replace(shape, description=description)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "mixtral", "phi3"])
def test_where_vllms_own_class_gives_the_layers_it_is_told_nothing(model_type: str) -> None:
    assert middle_class(_shape(model_type), MIDDLE, 1) == MiddleClass((32,))


@pytest.mark.parametrize("model_type", ["gemma3_text", "olmo2", "granite", "cohere2", "exaone4"])
def test_other_families_are_built_from_their_description(model_type: str) -> None:
    changes = MIXED if model_type in {"gemma3_text", "cohere2", "exaone4"} else {}
    shape = _shape(model_type, **changes)
    told = middle_class(shape, MIDDLE, 1).overrides
    assert told["architectures"] == [DESCRIBED]
    assert told["hat_model_layer"] == 1
    assert msgspec.json.decode(str(told["hat_shape"]), type=ModelShape) == shape


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "cwm"])
def test_windows_that_differ_among_the_middle_layers_are_described(model_type: str) -> None:
    shape = _shape(model_type, **MIXED)
    assert not has_own_class(shape, range(4))
    assert middle_class(shape, range(4), 1).overrides["architectures"] == [DESCRIBED]
    if model_type != "cwm":
        assert has_own_class(shape, range(1, 2)), "a single layer has a single window"


def test_qwen2s_heads_that_do_not_fill_the_rows_are_described() -> None:
    """vLLM's class takes their size from the rows."""
    assert has_own_class(_shape("qwen2"), MIDDLE)
    assert not has_own_class(_shape("qwen2", num_attention_heads=4), MIDDLE)


def test_every_family_runs_on_vllm_and_is_tried_there() -> None:
    tried = {model.family for model in VLLM_MODELS.values()}
    for family in FAMILIES.values():
        if not family.layers_of and family.model_type not in ("llama", "mistral", "qwen2"):
            assert family.model_type in tried, family.model_type


def test_clamped_experts_have_vllms_constants() -> None:
    shape = _shape("gpt_oss", **MIXED, swiglu_limit=7.0)
    assert middle_class(shape, MIDDLE, 2).expert_widths == (64, 48)
    with pytest.raises(StartError, match=r"gpt_oss: expected experts with swiglu_limit 7 .* got 3"):
        middle_class(_shape("gpt_oss", **MIXED, swiglu_limit=3.0), MIDDLE, 1)


def test_experts_beside_a_gated_half_have_the_names_of_our_class() -> None:
    moe = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}
    changes = {**moe, "enable_moe_block": True, "sliding_window": 8}
    shape = _shape("gemma4_text", hidden_size_per_layer_input=0, **changes)
    assert middle_class(shape, MIDDLE, 2).expert_widths == (64, 32)
    experts = msgspec.structs.replace(shape.described.experts, router="gate")
    with pytest.raises(StartError, match=r"expected tensors \('router.proj', .* got \('gate'"):
        middle_class(_described(shape, experts=experts), MIDDLE, 1)


def test_what_the_described_class_cannot_is_refused_by_name() -> None:
    shape = _shape("gemma3_text", **MIXED)
    with pytest.raises(StartError, match=r"gemma3_text: expected gains .* not plus 0.5; use torch"):
        middle_class(_described(shape, norm_offset=0.5), MIDDLE, 1)
    shape = _shape("mixtral")
    windows = msgspec.structs.replace(shape, sliding_windows=(None, 8, None, 8))
    with pytest.raises(StartError, match="mixtral: expected one sliding window"):
        middle_class(windows, MIDDLE, 1)
    unknown = msgspec.structs.replace(shape, model_type="brandnew", description=Description())
    with pytest.raises(StartError, match="brandnew: the model type is not known here; use torch"):
        middle_class(unknown, MIDDLE, 1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        (
            {"head_dims": (24,)},
            "kernels for heads of 32, 64 numbers, the model's have 24; use torch",
        ),
        ({"head_dims": (32, 128)}, "the model's have 128; use torch"),
        ({"expert_widths": (64, 48)}, "a multiple of 32 wide in each worker, got 48"),
    ],
)
def test_a_cpu_has_kernels_for_some_sizes_only(
    changes: dict[str, Any], complaint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = SimpleNamespace(get_supported_head_sizes=lambda: [32, 64])
    backend = SimpleNamespace(CPUAttentionBackend=sizes)
    monkeypatch.setattr(start, "_vllm", lambda _: backend)
    middle = replace(MiddleClass((32,)), **changes)
    if complaint is None:
        start._check_kernels(middle)
    else:
        with pytest.raises(StartError, match=complaint):
            start._check_kernels(middle)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no kernel\nand a trace", "no kernel"),
        (
            "1 validation error for VllmConfig\n  Value error, no such method [type=value_error, "
            "input_value=ArgsKwargs(()), input_type=ArgsKwargs]\n    For further information",
            "Value error, no such method",
        ),
        ("", "ValueError"),
    ],
)
def test_what_vllm_refuses_is_told_in_a_line(text: str, line: str) -> None:
    with pytest.raises(StartError) as refused, start._refusals_explained():
        raise ValueError(text)
    assert str(refused.value) == f"engine vllm refuses: {line}"


def test_the_plugin_tells_vllm_where_every_class_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, str] = {}
    registry = SimpleNamespace(
        get_supported_archs=lambda: ["HatMiddleLlamaForCausalLM"], register_model=told.__setitem__
    )
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    plugin.register()
    assert told.keys() == {PREFIX + base for base in BASES if base != "LlamaForCausalLM"} | {
        DESCRIBED
    }
    module, name = told[DESCRIBED].split(":")
    file = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    assert f"class {name}(" in file.read_text()


@pytest.mark.parametrize(
    ("head_dims", "is_cpu", "vllm_args", "expected"),
    [
        ((256, 512), False, None, "TRITON_ATTN"),
        ((256, 512), False, '{"attention_backend": "FLASH_ATTN"}', "FLASH_ATTN"),
        ((256, 512), False, '{"attention_config": {"backend": "FLASH_ATTN"}}', None),
        ((256, 512), True, None, None),
        ((256,), False, None, None),
    ],
)
def test_heads_of_several_sizes_have_one_attention_on_a_gpu(
    head_dims: tuple[int, ...],
    is_cpu: bool,
    vllm_args: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = SimpleNamespace(EngineArgs=SimpleNamespace(__dataclass_fields__=_AnyName()))
    monkeypatch.setattr(start, "_vllm", lambda _: fields)
    monkeypatch.setattr(start, "is_cpu_build", lambda: is_cpu)
    monkeypatch.setattr(start, "_check_kernels", lambda _: None)
    monkeypatch.setattr(start, "_set_environment", lambda *_: None)
    config = CloudConfig(Path("bundle"), engine="vllm", vllm_args=vllm_args)
    shape = EngineShape(64, Dtype.FP32, 128, 64)
    told = start._arguments(Path("bundle"), config, shape, None, MiddleClass(head_dims))
    assert told.get("attention_backend") == expected


class _AnyName(dict[str, object]):
    """A release of vLLM that knows every argument."""

    def __contains__(self, name: object) -> bool:
        return True
