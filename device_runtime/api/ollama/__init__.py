"""Ollama's API: chat, generate, and what models there are."""
