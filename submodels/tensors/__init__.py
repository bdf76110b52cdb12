"""Tensors in safetensors files, read and written without loading a model."""
