"""The README's table of families, made of the table of families and of what the tests run.

`python -m tests.support.family_table` writes it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from submodels.checkpoint.gguf.architectures import EVERY_ARCHITECTURE
from submodels.plan.families import FAMILIES, Family
from submodels.random_models import RandomModel
from tests.support.family_models import FAMILY_MODELS, has_experts
from tests.support.split_models import VARIANTS
from tests.support.vllm_family_models import VLLM_MODELS

README = Path(__file__).resolve().parents[2] / "README.md"
_MARKED = "<!-- families:begin -->\n{table}\n<!-- families:end -->"
_HEAD = (
    "| family | `model_type` | GGUF architecture | device runs its layers on | cloud "
    "| checked with |\n"
    "|---|---|---|---|---|---|"
)

_ON_VLLM = {"llama", "mistral", "qwen2", "qwen3", *(m.family for m in VLLM_MODELS.values())}
"""The first of them by the engines' contract suite, the others through a socket."""

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "llama": "Llama, SmolLM2, Falcon 3",
        "mistral": "Mistral",
        "qwen2": "Qwen2, Qwen2.5",
        "qwen3": "Qwen3",
        "granite": "Granite 3, dense",
        "smollm3": "SmolLM3",
        "olmo2": "OLMo 2",
        "olmo3": "OLMo 3",
        "phi3": "Phi-3, Phi-3.5, Phi-4, Phi-4-mini",
        "gemma2": "Gemma 2",
        "gemma3_text": "Gemma 3, text",
        "gemma4_text": "Gemma 4, text: dense, or with experts",
        "cohere2": "Command R7B, Command A",
        "glm4": "GLM-4 0414",
        "exaone4": "EXAONE 4",
        "qwen3_moe": "Qwen3 with experts",
        "mixtral": "Mixtral",
        "gpt_oss": "gpt-oss",
    }
)


_DEVICES: Mapping[frozenset[bool], str] = MappingProxyType(
    {
        frozenset({False}): "ONNX, torch",
        frozenset({True}): "torch (by default it has none)",
        frozenset({False, True}): "ONNX, torch; with experts torch (by default none)",
    }
)
"""By whether models of a family have experts."""


def table() -> str:
    """A row for each family whose layers are its own."""
    models = [*VARIANTS.values(), *FAMILY_MODELS.values()]
    own = [family for family in FAMILIES.values() if not family.layers_of]
    return "\n".join([_HEAD, *(_row(family, models) for family in own)])


def _row(family: Family, models: Iterable[RandomModel]) -> str:
    of_family = [model for model in models if model.family == family.model_type]
    assert of_family, f"no test runs {family.model_type}"
    device = _DEVICES[frozenset(has_experts(model) for model in of_family)]
    cloud = "torch, vLLM" if family.model_type in _ON_VLLM else "torch"
    name = _NAMES[family.model_type]
    return (
        f"| {name} | `{family.model_type}` | {_of_gguf(family)} | {device} | {cloud} "
        f"| {len(of_family)} checkpoint{'s' if len(of_family) > 1 else ''} |"
    )


def _of_gguf(family: Family) -> str:
    """llama.cpp's names for it; its converter writes Mistral's models as Llama's."""
    names = [each.name for each in EVERY_ARCHITECTURE if each.model_type == family.model_type]
    names = ["llama", *names] if family.model_type == "mistral" else names
    return ", ".join(f"`{name}`" for name in names)


def with_fresh_table(text: str) -> str:
    """The README with the table as it is now."""
    pattern, fresh = _MARKED.format(table=".*?"), _MARKED.format(table=table())
    text, num_found = re.subn(pattern, lambda _: fresh, text, flags=re.DOTALL)
    assert num_found == 1, "no place for the table of families"
    return text


if __name__ == "__main__":
    README.write_text(with_fresh_table(README.read_text()))
