"""What a cloud learns from a split, measured on a model and a text."""
