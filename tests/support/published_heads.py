"""Tiny seeded EAGLE heads as their authors publish them, and what such a head drafts.

The forward is written from the papers' description alone (EAGLE: arXiv:2401.15077, EAGLE-3:
arXiv:2503.01840), one whole pass per token and no cache, on transformers' rotary embedding. With
f the feature of the text before token x:

- EAGLE-1 and 2: f is the model's last row behind its final norm; h = fc([embedding(x), f]); one
  decoder layer without a norm before its attention gives the next feature, and the model's LM head
  reads it as it is.
- EAGLE-3: f = fc of three rows of the model; attention reads [norm(embedding(x)), norm(f)] and adds
  to f; the layer's row is the next feature, and the head's own norm and LM head read it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed, load_final_norm, load_lm_head
from submodels.manifest import ModelShape


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """A head to be made; sizes that are its own differ from those of the model on purpose."""

    kind: str = "eagle"
    has_bias: bool = True
    draft_vocab_size: int | None = None
    norm_before_residual: bool = False
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    intermediate_size: int = 40
    layer: str = "midlayer"
    seed: int = 5
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TinyHead:
    """Settings and tensors of a head, named as in its files."""

    recipe: HeadRecipe
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def write(self, folder: Path, *, pickled: bool = False) -> Path:
        """A folder such as a hub's repository holds."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        if pickled:
            torch.save(self.tensors, folder / "pytorch_model.bin")
        else:
            save_file(self.tensors, folder / "model.safetensors")
        return folder


def make_head(shape: ModelShape, recipe: HeadRecipe) -> TinyHead:
    """A random head for a model of this shape, in which every tensor matters."""
    generator = torch.Generator().manual_seed(recipe.seed)
    hidden, inner = shape.hidden_size, recipe.intermediate_size
    is_third = recipe.kind == "eagle3"
    into = 2 * hidden if is_third else hidden
    queries, keys = recipe.num_heads * recipe.head_dim, recipe.num_kv_heads * recipe.head_dim
    layer = f"{recipe.layer}." if is_third else "layers.0."
    sizes: dict[str, tuple[int, ...]] = {
        "fc.weight": (hidden, (3 if is_third else 2) * hidden),
        f"{layer}self_attn.q_proj.weight": (queries, into),
        f"{layer}self_attn.k_proj.weight": (keys, into),
        f"{layer}self_attn.v_proj.weight": (keys, into),
        f"{layer}self_attn.o_proj.weight": (hidden, queries),
        f"{layer}mlp.gate_proj.weight": (inner, hidden),
        f"{layer}mlp.up_proj.weight": (inner, hidden),
        f"{layer}mlp.down_proj.weight": (hidden, inner),
        f"{layer}post_attention_layernorm.weight": (hidden,),
    }
    if is_third:
        num_drafted = recipe.draft_vocab_size or shape.vocab_size
        sizes |= {
            f"{layer}hidden_norm.weight": (hidden,),
            f"{layer}input_layernorm.weight": (hidden,),
            "norm.weight": (hidden,),
            "lm_head.weight": (num_drafted, hidden),
        }
    elif recipe.has_bias:
        sizes["fc.bias"] = (hidden,)

    def numbers(name: str, size: tuple[int, ...]) -> Tensor:
        noise = torch.randn(size, generator=generator)
        if name.endswith("norm.weight"):
            return 1 + 0.2 * noise
        return noise * (0.2 if len(size) == 1 else 1.5 * size[1] ** -0.5)

    tensors = {name: numbers(name, size) for name, size in sizes.items()}
    if is_third and recipe.draft_vocab_size:
        chosen = torch.randperm(shape.vocab_size, generator=generator)[: recipe.draft_vocab_size]
        chosen = chosen.sort().values
        tensors["d2t"] = chosen - torch.arange(len(chosen))
        tensors["t2d"] = torch.zeros(shape.vocab_size, dtype=torch.bool)
        tensors["t2d"][chosen] = True
    return TinyHead(recipe, _config(shape, recipe), tensors)


def repeating_head(device: Path, kind: str) -> TinyHead:
    """A head whose feature stays as it is: right where the model says the same token again."""
    bundle = load_bundle(device, "device")
    shape = bundle.manifest.shape
    head = make_head(shape, HeadRecipe(kind))
    for name, tensor in head.tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "fc.weight", "fc.bias")):
            tensor.zero_()
    head.tensors["fc.weight"][:, -shape.hidden_size :] = torch.eye(shape.hidden_size)
    if kind == "eagle3":
        placed = Placed()
        head.tensors["norm.weight"] = load_final_norm(bundle, placed).clone()
        head.tensors["lm_head.weight"] = load_lm_head(bundle, placed).clone()
    return head


def _config(shape: ModelShape, recipe: HeadRecipe) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": recipe.intermediate_size,
        "num_attention_heads": recipe.num_heads,
        "num_key_value_heads": recipe.num_kv_heads,
        "head_dim": recipe.head_dim,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5000.0,
        "max_position_embeddings": 256,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": False,
    }
    if recipe.kind == "eagle3":
        config["architectures"] = ["LlamaForCausalLMEagle3"]
        config["draft_vocab_size"] = recipe.draft_vocab_size or shape.vocab_size
    if recipe.norm_before_residual:
        config["norm_before_residual"] = True
    return {**config, **recipe.extra}


@dataclass(frozen=True, slots=True)
class TargetParts:
    """What a head borrows of its model, float32."""

    embedding: Tensor
    final_norm: Tensor
    eps: float
    lm_head: Tensor


class HeadOracle:
    """What a head says, from its published description."""

    def __init__(self, head: TinyHead, target: TargetParts) -> None:
        layer = "layers.0." if head.recipe.kind == "eagle" else f"{head.recipe.layer}."
        self._layer = {
            name.removeprefix(layer): tensor
            for name, tensor in head.tensors.items()
            if name.startswith(layer)
        }
        self._tensors = head.tensors
        self._recipe = head.recipe
        self._config = head.config
        self._target = target
        self._is_third = head.recipe.kind == "eagle3"

    def features(self, rows: Sequence[Tensor]) -> Tensor:
        """Features `[T, H]`: of the model's last rows, or of its rows of three depths."""
        if self._is_third:
            return torch.cat(list(rows), dim=-1) @ self._tensors["fc.weight"].T
        (last,) = rows
        return _norm(last, self._target.final_norm, self._target.eps)

    def estimates(self, token_ids: Sequence[int], features: Tensor) -> Tensor:
        """The features `[T, H]` that follow tokens, of which each stands behind its feature."""
        embedded = self._target.embedding[torch.tensor(list(token_ids))]
        eps, layer = self._config["rms_norm_eps"], self._layer
        if self._is_third:
            normed = _norm(features, layer["hidden_norm.weight"], eps)
            into = torch.cat((_norm(embedded, layer["input_layernorm.weight"], eps), normed), -1)
            residual = normed if self._recipe.norm_before_residual else features
        else:
            residual = torch.cat((embedded, features), -1) @ self._tensors["fc.weight"].T
            residual = residual + self._tensors.get("fc.bias", torch.zeros(1))
            into = residual
        residual = residual + self._attention(into)
        normed = _norm(residual, layer["post_attention_layernorm.weight"], eps)
        gate = torch.nn.functional.silu(normed @ layer["mlp.gate_proj.weight"].T)
        inner = gate * (normed @ layer["mlp.up_proj.weight"].T)
        return residual + inner @ layer["mlp.down_proj.weight"].T

    def logits(self, estimates: Tensor) -> Tensor:
        """Over the whole vocabulary `[T, V]`; minus infinity where the head has no token."""
        if not self._is_third:
            return estimates @ self._target.lm_head.T
        normed = _norm(estimates, self._tensors["norm.weight"], self._config["rms_norm_eps"])
        drafted = normed @ self._tensors["lm_head.weight"].T
        if "d2t" not in self._tensors:
            return drafted
        places = torch.arange(drafted.shape[-1]) + self._tensors["d2t"]
        logits = torch.full((len(estimates), self._config["vocab_size"]), -torch.inf)
        logits[:, places] = drafted
        return logits

    def chain(self, token_ids: Sequence[int], features: Tensor, num_tokens: int) -> list[int]:
        """The greedy draft behind tokens with their features; its own estimates follow."""
        text, drafted = list(token_ids), []
        for _ in range(num_tokens):
            estimates = self.estimates(text, features)
            drafted.append(int(self.logits(estimates[-1:])[0].argmax()))
            text.append(drafted[-1])
            features = torch.cat((features, estimates[-1:]))
        return drafted

    def _attention(self, into: Tensor) -> Tensor:
        recipe, layer, num_rows = self._recipe, self._layer, len(into)

        def heads(name: str) -> Tensor:
            projected = into @ layer[f"self_attn.{name}_proj.weight"].T
            return projected.view(1, num_rows, -1, recipe.head_dim).transpose(1, 2)

        rotary = LlamaRotaryEmbedding(LlamaConfig(**self._config))
        queries, keys, values = heads("q"), heads("k"), heads("v")
        cos, sin = rotary(values, torch.arange(num_rows)[None])
        queries, keys = apply_rotary_pos_emb(queries, keys, cos, sin)
        share = recipe.num_heads // recipe.num_kv_heads
        keys, values = (t.repeat_interleave(share, dim=1) for t in (keys, values))
        scores = queries @ keys.transpose(2, 3) * recipe.head_dim**-0.5
        hidden = torch.ones(num_rows, num_rows, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values
        return mixed.transpose(1, 2).reshape(num_rows, -1) @ layer["self_attn.o_proj.weight"].T


def _norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    return rows * (rows.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight
