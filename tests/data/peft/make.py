"""Makes the files beside it with peft: a base, adapters of it, and each merged into it by peft.

Run: python tests/data/peft/make.py, where peft and transformers are installed.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent


SETTINGS = {
    "adapter": {
        "target_modules": ["q_proj", "o_proj", "up_proj"],
        "modules_to_save": ["lm_head"],
        "rank_pattern": {"o_proj": 2, r"^model\.layers\.1\.mlp\.up_proj": 3},
        "alpha_pattern": {r"layers\.[01]\..*q_proj": 5},
        "use_rslora": True,
        "fan_in_fan_out": True,
        "bias": "lora_only",
    },
    "dora": {"target_modules": ["k_proj", "down_proj", "lm_head"], "use_dora": True},
    "table": {"target_modules": ["embed_tokens", "v_proj"]},
    "tokens": {
        "target_modules": ["v_proj"],
        "trainable_token_indices": {"embed_tokens": [7, 3], "lm_head": [39]},
    },
}
"""What of LoRA each adapter has, by the name of its folder."""


def make() -> None:
    """Write `base`, and for each adapter its folder and what it is merged to."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=40,
        max_position_embeddings=64,
        attention_bias=True,
        bos_token_id=None,
        eos_token_id=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(HERE / "base")
    for name, settings in SETTINGS.items():
        adapted = get_peft_model(_base(), LoraConfig(**_COMMON, **settings))
        with torch.no_grad():
            for parameter_name, parameter in adapted.named_parameters():
                if "lora_" in parameter_name or parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        adapted.save_pretrained(HERE / name)
        path = HERE / name / "adapter_config.json"
        told = json.loads(path.read_text()) | {"base_model_name_or_path": None}
        path.write_text(json.dumps(told, indent=2))
        (HERE / name / "README.md").unlink()
        merged = PeftModel.from_pretrained(_base(), HERE / name).merge_and_unload().state_dict()
        end = "" if name == "adapter" else f"-{name}"
        save_file(merged, HERE / f"merged{end}.safetensors")


_COMMON = {"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM"}


def _base() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(HERE / "base", dtype=torch.bfloat16)


if __name__ == "__main__":
    make()
