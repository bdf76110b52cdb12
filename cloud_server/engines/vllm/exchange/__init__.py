"""Rows between the daemon's process and vLLM's workers."""
