"""Calls of tools: how models of some families write them, as a grammar and as text to be read."""
