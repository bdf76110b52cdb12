"""Certificates by file."""

import ssl
from pathlib import Path

from process.errors import StartError


def server_tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """A context for both files, or None for neither.

    Raises:
        StartError: one without the other, or files that cannot be used.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartError("tls_certificate and tls_key go together")
    for path in (certificate, key):
        if not path.is_file():
            raise StartError(f"TLS: no file {path}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise StartError(f"TLS: cannot use {certificate} with {key}: {reason}") from error
    return context


def _no_password() -> str:
    """Asked for when the key is encrypted; a daemon has nobody to ask."""
    raise ValueError("the key is encrypted; give one without a passphrase")
