"""TLS with a server that is known by its key.

The check is a part of the handshake itself, so no connection that is made with the context can
leave it out, and nothing is sent before it.
"""

import ssl
from collections.abc import Iterable
from pathlib import Path

from process.tls.certificates import CertificateError, pin_of_der


class WrongKeyError(ssl.SSLCertVerificationError):
    """The server has another key than those that are trusted; `found` is its pin, if it has one."""

    def __init__(self, found: str | None) -> None:
        super().__init__(1, "the server's key is not one of the pinned ones")
        self.found = found


class _Object(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        assert isinstance(context, PinnedContext)
        der = self.getpeercert(binary_form=True)
        try:
            found = None if der is None else pin_of_der(der)
        except CertificateError:
            found = None
        if found not in context.pins:
            raise WrongKeyError(found)


class PinnedContext(ssl.SSLContext):
    """For event loops, all of which wrap memory and not sockets. `pins` are any that will do."""

    sslobject_class = _Object
    pins: frozenset[str] = frozenset()


def pinned_context(pins: Iterable[str], ca_file: Path | None = None) -> ssl.SSLContext:
    """A client's context that takes one of these keys, in whatever certificate it is shown.

    With a `ca_file` the certificate must be one of that authority as well, for the host, and valid.

    Raises:
        OSError: the file cannot be read, or (`ssl.SSLError`) holds no certificate.
    """
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.pins = frozenset(pins)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Below TLS 1.3 a server could show another certificate later.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if ca_file is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(ca_file)
    return context
