"""The kinds of models in GGUF files, by llama.cpp's names, and what its converter does to each.

Source: `conversion/` of llama.cpp, which writes the files, and `src/models/`, which reads them and
knows what a file does not say.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from submodels.checkpoint.gguf import family_settings as settings
from submodels.checkpoint.gguf.file import GgufFile
from submodels.errors import UnsupportedModelError

_LAYER: Mapping[str, str] = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
_NORMS_BEHIND = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GEMMA = {**_NORMS_BEHIND, "ffn_norm": "pre_feedforward_layernorm"}
_GEMMA4 = {
    **_GEMMA,
    "layer_output_scale.weight": "layer_scalar",
    "ffn_gate_inp.weight": "router.proj.weight",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj",
    "ffn_down_exps.weight": "experts.down_proj",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
}
_QWEN3_EXPERTS = {
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
_MIXTRAL_EXPERTS = {
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of llama.cpp's architectures as a family of ours."""

    name: str
    """In `general.architecture`."""
    model_type: str
    """Of the family, in a config.json."""
    settings: Callable[[GgufFile], dict[str, Any]]
    """What a config.json of the family says beside what all of them do."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Tensors of a layer that are called otherwise than Llama's, by llama.cpp's name; with its
    suffix where the family has none."""
    experts: Mapping[str, str] = field(default_factory=dict)
    """Matrices of all experts in one tensor, and what one expert's is called."""
    stacks_experts: bool = False
    """The family too has all experts in one tensor, inputs first, gate and up in turn."""
    is_reordered: bool = False
    """The converter reorders the rows of query and key projections."""
    gain_offset: float = 0.0
    """The converter adds it to the gains of norms."""
    known: frozenset[str] = frozenset()
    """Settings that change the arithmetic and that `settings` reads."""
    has_own_heads: bool = False
    """Layers differ in the size and number of their heads, which `settings` reads."""
    turns_partly: bool = False
    """Rotary embeddings may turn a part of each head only."""
    ends: tuple[str, ...] | None = None
    """The tokens that end an answer, beside those that a file names; None: by its template."""

    @property
    def layer_names(self) -> Mapping[str, str]:
        """The tensors of a layer, by llama.cpp's name, as a Hugging Face checkpoint has them."""
        return {**_LAYER, **self.names}


_EXPERT_SETTINGS = frozenset({"expert_count", "expert_weights_norm"})
_SCALES = frozenset({"attention.scale", "embedding_scale", "residual_scale", "logit_scale"})
_WINDOW = frozenset({"attention.sliding_window"})
_CAPS = frozenset({"attn_logit_softcapping", "final_logit_softcapping"})

_LLAMA = Architecture("llama", "llama", settings.llama, is_reordered=True)
_MIXTRAL = Architecture(
    "llama",
    "mixtral",
    settings.mixtral,
    names={"ffn_gate_inp": "block_sparse_moe.gate"},
    experts=_MIXTRAL_EXPERTS,
    is_reordered=True,
    known=_EXPERT_SETTINGS,
)
_OLMO2 = Architecture("olmo2", "olmo2", settings.olmo2, names=_NORMS_BEHIND)
_OLMO3 = Architecture("olmo2", "olmo3", settings.olmo3, names=_NORMS_BEHIND, known=_WINDOW)
_MISTRAL3 = Architecture("mistral3", "mistral", settings.mistral, is_reordered=True, known=_WINDOW)
_MINISTRAL3 = Architecture(
    "mistral3",
    "ministral3",
    settings.ministral3,
    is_reordered=True,
    known=_WINDOW | {"attention.temperature_scale"},
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        each.name: each
        for each in (
            _LLAMA,
            Architecture("mistral", "mistral", settings.mistral, is_reordered=True, known=_WINDOW),
            _MISTRAL3,
            Architecture("qwen2", "qwen2", settings.qwen2),
            Architecture(
                "qwen2vl", "qwen2", settings.qwen2, known=frozenset({"rope.dimension_sections"})
            ),
            Architecture("qwen3", "qwen3", settings.qwen3),
            Architecture(
                "qwen3vl",
                "qwen3",
                settings.qwen3,
                known=frozenset({"rope.dimension_sections", "n_deepstack_layers"}),
            ),
            Architecture(
                "seed_oss",
                "seed_oss",
                settings.seed_oss,
                names={"post_attention_norm": "post_attention_layernorm"},
            ),
            Architecture("granite", "granite", settings.granite, is_reordered=True, known=_SCALES),
            Architecture("smollm3", "smollm3", settings.smollm3, is_reordered=True),
            _OLMO2,
            Architecture(
                "phi3",
                "phi3",
                settings.phi3,
                names={"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
                known=_WINDOW,
                turns_partly=True,
            ),
            Architecture(
                "gemma2",
                "gemma2",
                settings.gemma2,
                names=_GEMMA,
                gain_offset=1.0,
                known=_WINDOW | _CAPS,
            ),
            Architecture(
                "gemma3",
                "gemma3_text",
                settings.gemma3,
                names=_GEMMA,
                gain_offset=1.0,
                known=_WINDOW | {"final_logit_softcapping"},
            ),
            Architecture(
                "gemma4",
                "gemma4_text",
                settings.gemma4,
                names=_GEMMA4,
                known=_WINDOW | {"final_logit_softcapping", "expert_count"},
                has_own_heads=True,
                ends=("<turn|>", "<|tool_response>"),
            ),
            Architecture("cohere2", "cohere2", settings.cohere2, known=_WINDOW | {"logit_scale"}),
            Architecture(
                "glm4",
                "glm4",
                settings.glm4,
                names={
                    "post_attention_norm": "post_self_attn_layernorm",
                    "post_ffw_norm": "post_mlp_layernorm",
                    "ffn_up": "mlp.gate_up_proj",
                },
                turns_partly=True,
                ends=("<|endoftext|>", "<|user|>", "<|observation|>"),
            ),
            Architecture(
                "exaone4", "exaone4", settings.exaone4, names=_NORMS_BEHIND, known=_WINDOW
            ),
            Architecture(
                "qwen3moe",
                "qwen3_moe",
                settings.qwen3_moe,
                names={"ffn_gate_inp": "mlp.gate"},
                experts=_QWEN3_EXPERTS,
                known=_EXPERT_SETTINGS,
            ),
            Architecture(
                "gpt-oss",
                "gpt_oss",
                settings.gpt_oss,
                names={
                    "post_attention_norm": "post_attention_layernorm",
                    "ffn_gate_inp": "mlp.router",
                    "attn_sinks.weight": "self_attn.sinks",
                },
                stacks_experts=True,
                known=_WINDOW | _EXPERT_SETTINGS,
                ends=("<|return|>", "<|call|>", "<|endoftext|>"),
            ),
        )
    }
)
"""By `general.architecture`, which two families may share: see `architecture_of`."""

EVERY_ARCHITECTURE = (*ARCHITECTURES.values(), _MIXTRAL, _OLMO3, _MINISTRAL3)
"""Also those of the same name."""


def architecture_of(file: GgufFile) -> Architecture:
    """What a file's architecture is to us.

    Raises:
        UnsupportedModelError: one that is not read.
    """
    found = ARCHITECTURES.get(file.architecture)
    if found is None:
        raise UnsupportedModelError(
            f"{file.path}: architecture {file.architecture!r:.60} is not supported; supported: "
            f"{', '.join(ARCHITECTURES)}"
        )
    if found is _LLAMA and file.get("expert_count"):
        return _MIXTRAL
    if found is _OLMO2 and file.get("attention.sliding_window"):
        return _OLMO3
    if found is _MISTRAL3 and file.get("attention.temperature_scale"):
        return _MINISTRAL3
    return found
