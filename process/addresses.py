"""Addresses as hosts have them, and as they are written before a port."""

_WILDCARDS = ("", "0.0.0.0", "::")


def is_wildcard(host: str) -> bool:
    """Whether a listener there listens on all of a machine's addresses."""
    return host in _WILDCARDS


def bracketed(host: str) -> str:
    """A host as it stands in a URL: IPv6 in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host
