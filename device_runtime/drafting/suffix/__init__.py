"""Drafts out of what this user and his model said before, kept on the device."""
