"""Rows in fewer bytes: codecs beside RAW. Pure: bytes in, bytes out."""
