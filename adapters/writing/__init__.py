"""Conversations that the target writes itself: users' turns, and its answers."""
