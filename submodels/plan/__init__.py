"""Which layers and weights go where, and the shapes that are supported."""
