"""Grammars: what an answer may be, compiled for the model's tokens and followed on the device."""
