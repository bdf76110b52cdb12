"""Checkpoints that other tools have quantised, dequantised tensor by tensor while they are read."""
