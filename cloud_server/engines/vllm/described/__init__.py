"""Middle layers built from a model's description, over vLLM's own layers; workers only."""
