"""Drafts from every place of a text, as the device would make them there."""
