"""What a cloud is known by and is shown, taken from its files again whenever they change."""

import logging
import ssl
from collections.abc import Sequence
from pathlib import Path

from device_runtime.link.config import ClientCertificate, showing, tls_context
from process.errors import StartError
from process.tls.renewed import RenewedFiles

_log = logging.getLogger(__name__)


class DialedTls:
    """The context of connections to come, for a wss:// address; none for ws://.

    Short-lived certificates are renewed while a device runs, and so are authorities.

    Args:
        url: The cloud's.
        ca_file: The authority in place of the system's.
        pins: Keys of which the cloud must have one.
        shown: What the device shows.

    Raises:
        StartError: when made, for files that cannot be used, or that are of no use for ws://.
    """

    def __init__(
        self,
        url: str,
        ca_file: Path | None = None,
        pins: Sequence[str] = (),
        shown: ClientCertificate | None = None,
    ) -> None:
        self._url = url
        self._ca_file = ca_file
        self._pins = pins
        self._shown = shown
        mine = () if shown is None else (shown.certificate, shown.key)
        self._files = RenewedFiles(*mine, *(() if ca_file is None else (ca_file,)))
        self._take_up()

    def context(self) -> ssl.SSLContext | None:
        """The one of now; as it was where the files are of no use, which is said once for each
        reason. Such files are tried again each time: a disk or a limit may be what is wrong."""
        try:
            if self._files.look(self._take_up):
                _log.info("took up %s", " and ".join(map(str, self._files.files)))
        except StartError as error:
            _log.error("TLS with the cloud stays what it was: %s", error)
        return self._context

    def _take_up(self) -> None:
        self._context = self._made()

    def _made(self) -> ssl.SSLContext | None:
        return showing(tls_context(self._url, self._ca_file, self._pins), self._shown)
