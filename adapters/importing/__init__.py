"""Drafting heads that others have published, read and turned into hat's adapters."""
