"""The name in a client certificate that an authority of the cloud's has signed."""

from collections.abc import Iterable, Mapping
from typing import Any

_ALTERNATIVES = ("DNS", "email")
"""Kinds of alternative names that may be a name, the first that there is."""


def name_of_certificate(peer: Mapping[str, Any] | None) -> str | None:
    """What names its holder: the subject's common name, else an alternative name; empty where it
    has none of them, which lets nobody in.

    Args:
        peer: A certificate as `ssl.SSLSocket.getpeercert` gives it, checked by then; None or empty
            where none was shown.

    Returns:
        None where none was shown.
    """
    if not peer:
        return None
    subject = (pair for group in peer.get("subject", ()) for pair in group)
    for wanted, pairs in (
        (("commonName",), subject),
        (_ALTERNATIVES, peer.get("subjectAltName", ())),
    ):
        found = _first(wanted, pairs)
        if found is not None:
            return found
    return ""


def _first(wanted: Iterable[str], pairs: Iterable[tuple[str, str]]) -> str | None:
    known: dict[str, str] = {}
    for kind, value in pairs:
        known.setdefault(kind, value)
    return next((known[kind] for kind in wanted if known.get(kind)), None)
