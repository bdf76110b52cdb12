"""Weights that compute in a rotated basis of the hidden states."""
