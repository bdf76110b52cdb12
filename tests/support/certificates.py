"""Certificates of all kinds, made with openssl."""

import shutil
import ssl
import subprocess
from pathlib import Path

HAS_OPENSSL = shutil.which("openssl") is not None

_ENDS = {
    "good": (("-days", "2"),),
    "expired": (
        ("-days", "-1"),
        ("-not_before", "20200101000000Z", "-not_after", "20200201000000Z"),
    ),
    "early": (("-not_before", "20800101000000Z", "-not_after", "20800201000000Z"),),
}


class Authority:
    """Signs certificates below a folder; `ca` is its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = folder / "ca.pem"
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test ca"),
        )

    def server(
        self, kind: str, names: str, common_name: str | None = None
    ) -> ssl.SSLContext | None:
        """What a server shows: `good`, `expired` or `early`, for these alternative names.

        None where this openssl makes no such certificate.
        """
        self._openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={common_name or kind}"),
            *("-keyout", f"{kind}.key", "-out", f"{kind}.csr"),
        )
        (self._folder / "names").write_text(f"subjectAltName={names}\n")
        if not any(self._sign(kind, ends) for ends in _ENDS[kind]):
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / f"{kind}.pem", self._folder / f"{kind}.key")
        return context

    def files(self, name: str, names: str) -> tuple[Path, Path]:
        """A certificate of this common name, valid now, and its key."""
        context = self.server("good", names, common_name=name)
        assert context is not None, "every openssl makes one that is valid now"
        made = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        for path in made:
            (self._folder / f"good{path.suffix}").rename(path)
        return made

    def expired_files(self) -> tuple[Path, Path] | None:
        """One that was valid until some time ago, and its key; None as above."""
        if self.server("expired", "DNS:expired") is None:
            return None
        return self._folder / "expired.pem", self._folder / "expired.key"

    def _sign(self, kind: str, ends: tuple[str, ...]) -> bool:
        """Which of the ways works depends on openssl's version."""
        try:
            self._openssl(
                *("x509", "-req", "-in", f"{kind}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
                *("-CAcreateserial", "-extfile", "names", "-out", f"{kind}.pem", *ends),
            )
        except subprocess.CalledProcessError:
            return False
        return True

    def _openssl(self, *arguments: str) -> None:
        command = ["openssl", *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder)
