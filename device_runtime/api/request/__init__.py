"""Request bodies, read and refused."""
