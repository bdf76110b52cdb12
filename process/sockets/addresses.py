"""How an address is written before a port."""


def bracketed(host: str) -> str:
    """A host as it stands in a URL: IPv6 in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host
