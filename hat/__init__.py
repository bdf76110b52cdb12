"""The one command line, and both sides on one machine."""
