"""The certificate that a program shows, taken from files again whenever they change."""

import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from process.errors import StartError, system_reason
from process.tls.certificates import CertificateError, names_of_pem, pin_of_pem, validities
from process.tls.renewed import RenewedFiles


class ServedTls:
    """The context of new connections; those that exist keep what they began with.

    `make` reads the files, its own certificate's first, and returns a context that shows them.

    Raises:
        StartError: when made, what `make` raises, or for a certificate that cannot be read.
    """

    def __init__(
        self, make: Callable[[], ssl.SSLContext], certificate: Path, *others: Path
    ) -> None:
        self.certificate = certificate
        self._files = RenewedFiles(certificate, *others)
        self._make = make
        self._take_up()

    def context(self) -> ssl.SSLContext:
        """The one of now."""
        return self._context

    def ends_s(self) -> float:
        """When the certificate's last moment is, in seconds since 1970."""
        return self.ends.timestamp()

    def look(self, now: datetime) -> bool:
        """Take up the files if they have changed; whether they have.

        What cannot be used now is tried again each time: a disk, a limit or a clock may be what is
        wrong.

        Raises:
            StartError: they have, and cannot be used; once for each reason. All stays as it was.
        """
        return self._files.look(lambda: self._take_up(now))

    def _take_up(self, now: datetime | None = None) -> None:
        # The context comes first: it says best what is wrong with the files.
        context = self._make()
        try:
            pem = self.certificate.read_bytes()
            ends, pin, names = validities(pem)[0].ends, _pin(pem), names_of_pem(pem)
        except CertificateError as error:
            raise StartError(f"TLS: cannot use {self.certificate}: {error}") from error
        except OSError as error:
            reason = system_reason(error)
            raise StartError(f"TLS: cannot use {self.certificate}: {reason}") from error
        if now is not None and ends < now:
            raise StartError(f"TLS: {self.certificate} has expired on {ends:%Y-%m-%d}")
        self.ends = ends
        """Its last moment."""
        self.pin = pin
        """Of its key; None where that is of a kind that has none here."""
        self.names = names
        """The hosts that it is for."""
        self._context = context


def _pin(pem: bytes) -> str | None:
    try:
        return pin_of_pem(pem)
    except CertificateError:
        return None
