"""Texts, hidden states and rounds that an adapter learns from and is measured on."""
