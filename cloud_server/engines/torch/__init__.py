"""The middle layers on torch."""
