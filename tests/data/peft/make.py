"""Makes the files beside it with peft: a base, an adapter of it, and both merged by peft.

Run: python tests/data/peft/make.py, where peft and transformers are installed.
"""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent


def make() -> None:
    """Write `base`, `adapter` and `merged.safetensors`."""
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
    base = LlamaForCausalLM(config).to(torch.bfloat16)
    base.save_pretrained(HERE / "base")
    settings = LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules=["q_proj", "o_proj", "up_proj"],
        modules_to_save=["lm_head"],
        rank_pattern={"o_proj": 2, r"^model\.layers\.1\.mlp\.up_proj": 3},
        alpha_pattern={r"layers\.[01]\..*q_proj": 5},
        use_rslora=True,
        fan_in_fan_out=True,
        bias="lora_only",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(base, settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    adapted.save_pretrained(HERE / "adapter")
    (HERE / "adapter" / "README.md").unlink()
    again = LlamaForCausalLM.from_pretrained(HERE / "base", dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(again, HERE / "adapter").merge_and_unload()
    save_file(merged.state_dict(), HERE / "merged.safetensors")


if __name__ == "__main__":
    make()
