"""Certificates: what they say, the keys that peers are known by, and those that are shown."""
