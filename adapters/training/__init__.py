"""Training a drafting adapter."""
