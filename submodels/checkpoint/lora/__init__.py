"""Adapters of PEFT (LoRA), merged into their base model while it is read."""
