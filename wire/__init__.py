"""The language between device and cloud: messages, codecs, limits and errors."""
