"""A guarded HTTP listener: who may connect, and what is refused before any handler."""
