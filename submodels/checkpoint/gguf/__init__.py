"""GGUF files as checkpoints: llama.cpp's single file with weights, tokenizer and settings."""
