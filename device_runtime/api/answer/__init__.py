"""Answers as they are generated: pieces of text, what they are parts of, and how they are sent."""
