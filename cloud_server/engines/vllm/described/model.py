"""A model class of vLLM whose layers are built from the description in the manifest.

It is used where vLLM's own class of a family does not give middle layers: norms behind a half,
halves beside each other, scaled updates, windows or rotary embeddings that differ by layer.
Its config has `hat_shape`, the whole model's shape as JSON, and `hat_model_layer`, the first of
its layers in the whole model.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec
import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.distributed import get_pp_group
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.models.interfaces import SupportsPP
from vllm.model_executor.models.utils import (
    PPMissingLayer,
    extract_layer_index,
    make_empty_intermediate_tensors_factory,
    make_layers,
    maybe_prefix,
)
from vllm.sequence import IntermediateTensors

from cloud_server.engines.vllm.described.attention import DescribedAttention, LayerPlace
from cloud_server.engines.vllm.described.feed_forward import (
    BesideExperts,
    ScaledRouter,
    make_feed_forward,
)
from cloud_server.engines.vllm.described.loading import load_described
from cloud_server.engines.vllm.described.parts import DescribedRotary, make_norm
from cloud_server.engines.vllm.models import ResidualSum, load_middle
from submodels.manifest import ModelShape
from submodels.plan.checks import rope_head_dims


class DescribedLayer(nn.Module):
    """A decoder layer as the description of its own shape says (`ModelShape.of_layer`)."""

    def __init__(self, shape: ModelShape, place: LayerPlace, vllm_config: Any, prefix: str) -> None:
        super().__init__()
        described = shape.described
        self._scale = described.residual_scale
        self._is_parallel = described.is_parallel
        self.self_attn = DescribedAttention(shape, place, vllm_config, f"{prefix}.self_attn")
        self.mlp = make_feed_forward(shape, vllm_config.quant_config, f"{prefix}.mlp")
        # Plain names, since a compiled graph asks for them.
        self._before_attention = described.before_attention
        self._after_attention = described.after_attention
        self._before_mlp, self._after_mlp = described.before_mlp, described.after_mlp
        names = {self._before_attention, self._after_attention, self._before_mlp, self._after_mlp}
        experts = described.experts
        self.router = self.experts = None
        if experts is not None and experts.before:
            self._before, self._after = experts.before, experts.after
            self._after_gated = experts.after_gated
            names |= {self._before, self._after, self._after_gated}
            quantised = vllm_config.quant_config
            self.router = ScaledRouter(shape, experts, f"{prefix}.router")
            self.experts = BesideExperts(
                shape, experts, self.router, quantised, f"{prefix}.experts"
            )
        for name in sorted(names - {""}):
            self.add_module(name, make_norm(shape, shape.hidden_size))
        self.layer_scalar = None
        if described.has_layer_scalar:
            self.layer_scalar = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(
        self, positions: torch.Tensor, rows: torch.Tensor, residual: None = None
    ) -> tuple[torch.Tensor, None]:
        """The stream `[T, H]` after this layer; nothing is left to be added to it."""
        normed = self._normed(rows, self._before_attention)
        update = self._normed(self.self_attn(positions, normed), self._after_attention)
        if self._is_parallel:
            return rows + _scaled(update + self.mlp(normed), self._scale), None
        rows = rows + _scaled(update, self._scale)
        update = self.mlp(self._normed(rows, self._before_mlp))
        if self.router is not None and self.experts is not None:
            made = self.experts(self._normed(rows, self._before), self.router(rows))
            update = self._normed(update, self._after_gated) + self._normed(made, self._after)
        rows = rows + _scaled(self._normed(update, self._after_mlp), self._scale)
        return rows if self.layer_scalar is None else rows * self.layer_scalar, None

    def _normed(self, rows: torch.Tensor, name: str) -> torch.Tensor:
        return getattr(self, name)(rows) if name else rows


def _scaled(update: torch.Tensor, scale: float) -> torch.Tensor:
    return update if scale == 1 else update * scale


@support_torch_compile
class DescribedStack(nn.Module):
    """This stage's layers."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        shape = msgspec.json.decode(config.hat_shape, type=ModelShape)
        # Layers say themselves how far they see; vLLM would take this one where they see all.
        vllm_config.cache_config.sliding_window = None
        rotaries = [
            DescribedRotary(shape, rope, head_dim, config.max_position_embeddings)
            if rope.inv_freq
            else None
            for rope, head_dim in zip(shape.ropes, rope_head_dims(shape), strict=True)
        ]

        def layer(prefix: str) -> DescribedLayer:
            number = config.hat_model_layer + extract_layer_index(prefix)
            rotary = rotaries[shape.rope_index(number)]
            place = LayerPlace(shape.sliding_windows[number], rotary)
            return DescribedLayer(shape.of_layer(number), place, vllm_config, prefix)

        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, shape.hidden_size)
        self.start_layer, self.end_layer, self.layers = make_layers(
            config.num_hidden_layers, layer, prefix=f"{prefix}.layers"
        )
        self.norm = ResidualSum() if get_pp_group().is_last_rank else PPMissingLayer()
        self.make_empty_intermediate_tensors = make_empty_intermediate_tensors_factory(
            ["hidden_states"], shape.hidden_size
        )

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Rows that stand for tokens while vLLM warms up; none are served."""
        rows: torch.Tensor = self.embed_tokens(input_ids)
        return rows

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        """Rows `[T, H]` through this stage's layers, from the device or from the stage before."""
        if intermediate_tensors is not None:
            rows = intermediate_tensors["hidden_states"]
        elif inputs_embeds is not None:
            rows = inputs_embeds
        else:
            assert input_ids is not None, "one of the three is given"
            rows = self.embed_input_ids(input_ids)
        for layer in islice(self.layers, self.start_layer, self.end_layer):
            rows, _ = layer(positions, rows)
        if get_pp_group().is_last_rank:
            return self.norm(rows)
        return IntermediateTensors({"hidden_states": rows})


class DescribedMiddle(nn.Module, SupportsPP):  # type: ignore[misc]
    """Middle layers by their description; its embedding and head are never used."""

    packed_modules_mapping = {  # noqa: RUF012, vLLM's own annotation is an instance's
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.model = DescribedStack(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(self.config.vocab_size, self.config.hidden_size)
        self.logits_processor = LogitsProcessor(self.config.vocab_size)
        self.make_empty_intermediate_tensors = self.model.make_empty_intermediate_tensors

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """See `DescribedStack.embed_input_ids`."""
        rows: torch.Tensor = self.model.embed_input_ids(input_ids)
        return rows

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        """See `DescribedStack.forward`."""
        return self.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Numbers without meaning, for vLLM's warm-up."""
        logits: torch.Tensor | None = self.logits_processor(self.lm_head, hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the middle layers of a bundle, or of a whole checkpoint."""
        return load_middle(self, weights, lambda middle: load_described(self, middle))
