"""Guesses at the next tokens, to be verified by the cloud."""
