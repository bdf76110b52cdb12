"""TLS whose clients are told why a handshake fails.

OpenSSL writes an alert for that, but event loops close a connection whose handshake has failed
without sending what was written.
"""

import ssl

_TOLD = frozenset(
    {
        *("CERTIFICATE_VERIFY_FAILED", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        *("NO_SHARED_CIPHER", "NO_SUITABLE_KEY_SHARE", "NO_SUITABLE_SIGNATURE_ALGORITHM"),
        *("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW"),
    }
)
"""What clients may mend. Whoever speaks no TLS reads no alert, and is let go at once."""


class _Object(ssl.SSLObject):
    _failed: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """One step of it. The first failure is told as a want of bytes: then the loop sends what
        there is to send; whatever comes next, bytes or the end, is told of the failure."""
        if self._failed is not None:
            raise self._failed
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if error.reason not in _TOLD:
                raise
            self._failed = error
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the alert goes first") from error


class TellingContext(ssl.SSLContext):
    """A server's, for event loops, all of which wrap memory and not sockets."""

    sslobject_class = _Object


def telling_context() -> TellingContext:
    """One as `ssl.create_default_context` makes for servers."""
    context = TellingContext(ssl.PROTOCOL_TLS_SERVER)
    usual = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= usual.options
    context.minimum_version = usual.minimum_version
    context.verify_flags |= usual.verify_flags
    return context
