"""Idle sessions in host memory: who goes there, who comes back, and how much a step copies."""
