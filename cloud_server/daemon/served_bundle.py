"""The device bundle that a cloud serves: its files, opened once and for all."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from process.errors import StartError, system_reason
from submodels.bundle.bundle import load_bundle
from submodels.bundle.fingerprint import middle_fingerprint_of
from submodels.bundle.manifest_file import MANIFEST_FILE, manifest_bytes, parse_manifest
from submodels.bundle.signature import SIGNATURE_FILE, read_signatures
from submodels.errors import BundleError
from submodels.manifest import Manifest


class ChangedFileError(Exception):
    """A file was changed after it was opened, so that it is not what the manifest says."""


@dataclass(frozen=True, slots=True)
class _OpenFile:
    descriptor: int
    num_bytes: int
    changed_ns: int


class ServedBundle:
    """What may be asked for by name: the manifest, the files that it lists, and its signatures.

    Names are looked up among open files, and never in a folder. `digest` (hex) is the SHA-256 of
    the manifest, so of everything.
    """

    def __init__(
        self, manifest: bytes, signatures: bytes | None, files: Mapping[str, _OpenFile]
    ) -> None:
        self.digest = hashlib.sha256(manifest).hexdigest()
        self._small = {MANIFEST_FILE: manifest}
        if signatures is not None:
            self._small[SIGNATURE_FILE] = signatures
        self._files = files

    @property
    def num_bytes(self) -> int:
        """Of all files together."""
        return sum(file.num_bytes for file in self._files.values())

    def size(self, name: str) -> int | None:
        """The bytes of a file; None where there is none of this name."""
        if name in self._small:
            return len(self._small[name])
        return self._files[name].num_bytes if name in self._files else None

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        """So many bytes of a file from `start`, all of which it has; blocks for the disk.

        Raises:
            ChangedFileError: the file on the disk is another one by now.
        """
        if name in self._small:
            return self._small[name][start : start + num_bytes]
        file = self._files[name]
        try:
            status = os.fstat(file.descriptor)
            if (status.st_size, status.st_mtime_ns) != (file.num_bytes, file.changed_ns):
                raise ChangedFileError(name)
            content = os.pread(file.descriptor, num_bytes, start)
        except OSError as error:
            raise ChangedFileError(f"{name}: {system_reason(error)}") from error
        if len(content) != num_bytes:
            raise ChangedFileError(name)
        return content

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            os.close(file.descriptor)
        self._files = {}


def open_served_bundle(
    path: Path, cloud: Manifest, verify: bool = False, key: str | None = None
) -> ServedBundle:
    """The device bundle at `path`, checked as `load_bundle` does, for a cloud of this manifest.

    Raises:
        BundleError: it is none, damaged, not signed by the key, or cannot be read.
        StartError: it belongs to another split than the cloud's bundle.
    """
    bundle = load_bundle(path, "device", verify, key=key)
    _check_fits(path, bundle.manifest, cloud)
    text = manifest_bytes(bundle.path)
    if parse_manifest(text, bundle.path) != bundle.manifest:
        raise BundleError(f"{bundle.path} changed while it was read")
    signatures = read_signatures(bundle.path)
    served = ServedBundle(text, signatures, files := {})
    try:
        for name, listed in bundle.manifest.files.items():
            files[name] = _opened(bundle.path / name, listed.num_bytes)
    except (OSError, BundleError) as error:
        served.close()
        if isinstance(error, OSError):
            reason = system_reason(error)
            raise BundleError(f"cannot read the bundle {path}: {reason}") from error
        raise
    return served


def _check_fits(path: Path, device: Manifest, cloud: Manifest) -> None:
    if middle_fingerprint_of(device) != middle_fingerprint_of(cloud):
        raise StartError(
            f"serve_device_bundle {path}: it is for other middle layers than this cloud's bundle "
            "holds; expected both of one `hat split`"
        )


def _opened(path: Path, num_bytes: int) -> _OpenFile:
    """A regular file of this size; links were followed, and none at its end now."""
    no_link = getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path.resolve(), os.O_RDONLY | os.O_CLOEXEC | no_link)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != num_bytes:
        os.close(descriptor)
        raise BundleError(f"{path} changed while it was read")
    return _OpenFile(descriptor, num_bytes, status.st_mtime_ns)
