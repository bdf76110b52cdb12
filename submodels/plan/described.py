"""How a configuration of each family becomes a description of its layers.

The law is transformers' own model code of the family; rotary embeddings are read in
`submodels.plan.rope`.
"""

from typing import Any

from submodels.errors import UnsupportedModelError
from submodels.manifest import LLAMA, Description, Experts, Heads

Config = Any
"""A transformers configuration object; its defaults and its reading of old keys are the law."""


def llama(config: Config) -> Description:
    """Pre-norm layers with a gated feed-forward half: Llama, Mistral, Qwen, SmolLM3, Phi-3."""
    return LLAMA


def granite(config: Config) -> Description:
    """Four multipliers.

    Raises:
        UnsupportedModelError: logits would be divided by zero.
    """
    if not config.logits_scaling:
        raise UnsupportedModelError(
            f"logits_scaling: expected a number but 0, got {config.logits_scaling}"
        )
    return Description(
        attention_scale=float(config.attention_multiplier),
        embedding_scale=float(config.embedding_multiplier),
        residual_scale=float(config.residual_multiplier),
        logit_scale=1 / float(config.logits_scaling),
    )


def olmo(config: Config) -> Description:
    """OLMo 2 and 3: norms after each half, and over all heads of queries and keys together."""
    return Description(
        before_attention="",
        after_attention="post_attention_layernorm",
        before_mlp="",
        after_mlp="post_feedforward_layernorm",
        qk_norm_over="width",
    )


def exaone4(config: Config) -> Description:
    """Norms after each half, and per head."""
    return Description(
        before_attention="",
        after_attention="post_attention_layernorm",
        before_mlp="",
        after_mlp="post_feedforward_layernorm",
    )


def gemma2(config: Config) -> Description:
    """Norms before and after each half whose gains are `1 + w`, and caps on scores and logits."""
    cap = config.attn_logit_softcapping
    return _gemma(config, None if cap is None else float(cap))


def gemma3(config: Config) -> Description:
    """As Gemma 2, without a cap on scores: its code does not look at that setting."""
    if config.use_bidirectional_attention:
        raise UnsupportedModelError("use_bidirectional_attention is not supported")
    return _gemma(config, None)


def _gemma(config: Config, attention_softcap: float | None) -> Description:
    cap = config.final_logit_softcapping
    return Description(
        after_attention="post_attention_layernorm",
        before_mlp="pre_feedforward_layernorm",
        after_mlp="post_feedforward_layernorm",
        norm_offset=1.0,
        attention_scale=float(config.query_pre_attn_scalar**-0.5),
        attention_softcap=attention_softcap,
        embedding_scale=float(config.hidden_size**0.5),
        logit_softcap=None if cap is None else float(cap),
    )


def gemma4(config: Config) -> Description:
    """As Gemma 3 with gains as stored, normed values, and a number that each layer ends with.

    Raises:
        UnsupportedModelError: what the smaller models of the family have.
    """
    per_layer = getattr(config, "hidden_size_per_layer_input", 0)
    if per_layer:
        raise UnsupportedModelError(
            f"embeddings per layer are not supported (hidden_size_per_layer_input {per_layer}, as "
            "in E2B and E4B): every layer would have to know the token, and the cloud must not"
        )
    if config.num_kv_shared_layers:
        raise UnsupportedModelError(
            "layers that read keys and values of others are not supported: num_kv_shared_layers "
            f"{config.num_kv_shared_layers} (as in E2B and E4B)"
        )
    if config.use_bidirectional_attention == "all":
        raise UnsupportedModelError("use_bidirectional_attention 'all' is not supported")
    cap = config.final_logit_softcapping
    return Description(
        after_attention="post_attention_layernorm",
        before_mlp="pre_feedforward_layernorm",
        after_mlp="post_feedforward_layernorm",
        attention_scale=1.0,
        embedding_scale=float(config.hidden_size**0.5),
        logit_softcap=None if cap is None else float(cap),
        has_value_norm=True,
        has_layer_scalar=True,
        experts=_gemma4_experts(config) if getattr(config, "enable_moe_block", False) else None,
    )


def _gemma4_experts(config: Config) -> Experts:
    return Experts(
        num_experts=config.num_experts,
        num_chosen=config.top_k_experts,
        inner_size=config.moe_intermediate_size,
        router="router.proj",
        gate="experts.gate_up_proj",
        up="",
        down="experts.down_proj",
        are_stacked=True,
        has_halves=True,
        before="pre_feedforward_layernorm_2",
        after="post_feedforward_layernorm_2",
        after_gated="post_feedforward_layernorm_1",
        router_scale="router.scale",
        expert_scale="router.per_expert_scale",
    )


def cohere2(config: Config) -> Description:
    """One norm, by mean and deviation, before both halves, which run beside each other."""
    return Description(
        before_mlp="",
        is_parallel=True,
        norm="layer",
        is_interleaved=True,
        logit_scale=float(config.logit_scale),
    )


def glm4(config: Config) -> Description:
    """Norms before and after each half; neighbours are turned together."""
    return Description(
        after_attention="post_self_attn_layernorm",
        after_mlp="post_mlp_layernorm",
        is_interleaved=True,
    )


def qwen3_moe(config: Config) -> Description:
    """Experts in every layer.

    Raises:
        UnsupportedModelError: some layers have none.
    """
    if config.mlp_only_layers or config.decoder_sparse_step != 1:
        raise UnsupportedModelError(
            "experts in some layers only are not supported: mlp_only_layers "
            f"{config.mlp_only_layers}, decoder_sparse_step {config.decoder_sparse_step}"
        )
    return Description(
        experts=Experts(
            num_experts=config.num_experts,
            num_chosen=config.num_experts_per_tok,
            inner_size=config.moe_intermediate_size,
            router="mlp.gate",
            gate="mlp.experts.{}.gate_proj",
            up="mlp.experts.{}.up_proj",
            down="mlp.experts.{}.down_proj",
            are_renormalised=bool(config.norm_topk_prob),
        )
    )


def mixtral(config: Config) -> Description:
    """Experts in every layer, under names of their own."""
    return Description(
        experts=Experts(
            num_experts=config.num_local_experts,
            num_chosen=config.num_experts_per_tok,
            inner_size=config.intermediate_size,
            router="block_sparse_moe.gate",
            gate="block_sparse_moe.experts.{}.w1",
            up="block_sparse_moe.experts.{}.w3",
            down="block_sparse_moe.experts.{}.w2",
        )
    )


def gpt_oss(config: Config) -> Description:
    """Experts in every layer, all in one tensor, clamped; and a sink in each head's softmax."""
    return Description(
        has_sinks=True,
        experts=Experts(
            num_experts=config.num_local_experts,
            num_chosen=config.num_experts_per_tok,
            inner_size=config.intermediate_size,
            router="mlp.router",
            gate="mlp.experts.gate_up_proj",
            up="",
            down="mlp.experts.down_proj",
            are_stacked=True,
            swiglu_limit=float(config.swiglu_limit),
            swiglu_alpha=float(config.swiglu_alpha),
        ),
    )


def same_heads(config: Config, layer: int) -> Heads:
    """The same in all layers."""
    explicit: int | None = getattr(config, "head_dim", None)
    return Heads(
        head_dim=explicit or config.hidden_size // config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
    )


def gemma4_heads(config: Config, layer: int) -> Heads:
    """Of a size and number of the layer's own; in global layers keys may be the values.

    Raises:
        UnsupportedModelError: transformers is too old to say what a layer has.
    """
    if not hasattr(config, "per_layer_config"):
        raise UnsupportedModelError(
            "this transformers has no per_layer_config: a newer one is needed for this model"
        )
    own = config.per_layer_config[layer]
    is_global = config.layer_types[layer] == "full_attention"
    return Heads(
        head_dim=own.head_dim,
        num_key_value_heads=own.num_key_value_heads,
        keys_are_values=bool(config.attention_k_eq_v and is_global),
    )


def every_layer(config: Config, layer: int) -> bool:
    """Rotary positions everywhere."""
    return True


def smollm3_turns(config: Config, layer: int) -> bool:
    """As a list of the configuration says, which has ones for layers that turn."""
    return bool(config.no_rope_layers[layer])


def sliding_layers(config: Config, layer: int) -> bool:
    """Only in layers that slide."""
    return bool(config.layer_types[layer] == "sliding_attention")


def exaone4_turns(config: Config, layer: int) -> bool:
    """Everywhere in a model without windows, else only in layers that slide."""
    return config.sliding_window is None or sliding_layers(config, layer)
