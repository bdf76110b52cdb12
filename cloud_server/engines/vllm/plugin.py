"""vLLM's entry point: every process of it, workers too, learns the middle's model classes."""

from types import MappingProxyType
from typing import Final

BASES: Final = MappingProxyType(
    {
        "LlamaForCausalLM": "llama",
        "MistralForCausalLM": "mistral",
        "Qwen2ForCausalLM": "qwen2",
        "Qwen3ForCausalLM": "qwen3",
        "Qwen3MoeForCausalLM": "qwen3_moe",
        "MixtralForCausalLM": "mixtral",
        "Phi3ForCausalLM": "phi3",
        "Glm4ForCausalLM": "glm4",
    }
)
"""vLLM's model classes that a middle is made of, and their modules in `vllm.model_executor`.

Each carries the stream and what is to be added to it from layer to layer, as `ResidualSum` expects.
"""

PREFIX: Final = "HatMiddle"
"""A cloud bundle's config.json names this and the base class as its architecture."""

DESCRIBED: Final = f"{PREFIX}DescribedForCausalLM"
"""The class that builds layers from their description; which models it runs, `classes` says."""


def register() -> None:
    """Register the classes by name; nothing of them is imported before a model is loaded."""
    from vllm import ModelRegistry

    known = set(ModelRegistry.get_supported_archs())
    places = {f"{PREFIX}{base}": f"models:{PREFIX}{base}" for base in BASES}
    places[DESCRIBED] = "described.model:DescribedMiddle"
    for name, place in places.items():
        if name not in known:
            ModelRegistry.register_model(name, f"cloud_server.engines.vllm.{place}")
