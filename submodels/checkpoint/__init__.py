"""Checkpoints as people have them, read; and what is copied from them."""
