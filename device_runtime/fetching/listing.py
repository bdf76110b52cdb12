"""What a bundle consists of, by the manifest that a cloud sent: nothing in it is believed."""

import hashlib
import re
from dataclasses import dataclass

from process.errors import UserError
from submodels.bundle.manifest_file import MANIFEST_FILE, parse_manifest
from submodels.bundle.signature import SIGNATURE_FILE, check_signature
from submodels.manifest import Manifest

_MOST_FILES = 256
_MOST_BYTES = 1 << 42
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_IN_LABELS = re.compile(r"[^\w.-]+", re.ASCII)


class FetchError(UserError):
    """The bundle cannot be had from this cloud; the message is one line."""

    may_pass = True
    # Cloud and network decide that. A disk that does not let it is the cause of its error.


class NotLetInError(FetchError):
    """The cloud refuses this device's secret or token, and will until somebody mends that."""

    may_pass = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """One content of a bundle, under all the names that it has there."""

    names: tuple[str, ...]
    num_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return self.names[0]


@dataclass(frozen=True, slots=True)
class Listing:
    """A bundle that a cloud serves."""

    text: bytes
    """Its manifest as it came."""
    signatures: bytes | None
    manifest: Manifest
    wanted: tuple[Wanted, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the manifest: no two bundles have the same."""
        return digest_of(self.text)

    @property
    def num_bytes(self) -> int:
        """Of all that has to be fetched."""
        return sum(each.num_bytes for each in self.wanted)

    @property
    def folder_name(self) -> str:
        """What it is kept under: whose model, the fingerprint of its weights, and its digest."""
        label = _NOT_IN_LABELS.sub("-", self.manifest.model_name.rpartition("/")[2])[:60]
        fingerprint = self.manifest.fingerprint[:12]
        return f"{label.strip('.-') or 'model'}-{fingerprint}-{self.digest[:12]}"


def digest_of(text: bytes) -> str:
    """What names the bundle with this manifest."""
    return hashlib.sha256(text).hexdigest()


def listing_of(text: bytes, signatures: bytes | None, where: str, key: str | None) -> Listing:
    """The bundle with this manifest, as the cloud at `where` sent it.

    `key` is the public key that is pinned, if one is.

    Raises:
        BundleError: it is no manifest of a known format, or not signed by that key.
        FetchError: it is no device bundle, or its files could not lie in a folder of ours.
    """
    what = f"the device bundle of the cloud at {where}"
    if key is not None:
        check_signature(what, text, signatures, key)
    manifest = parse_manifest(text, f"{MANIFEST_FILE} of the cloud at {where}")
    if manifest.role != "device":
        raise FetchError(f"{what} is a {manifest.role} bundle, expected a device bundle")
    if not _SHA256.fullmatch(manifest.fingerprint):
        raise FetchError(f"{what} has a fingerprint that is none")
    _check_names(what, manifest)
    names: dict[tuple[str, int], list[str]] = {}
    for name, file in manifest.files.items():
        names.setdefault((file.sha256, file.num_bytes), []).append(name)
    wanted = tuple(Wanted(tuple(each), size, sha) for (sha, size), each in names.items())
    if len({each.sha256 for each in wanted}) != len(wanted):
        raise FetchError(f"{what} lists one SHA-256 with two sizes")
    return Listing(text, signatures, manifest, wanted)


def _check_names(what: str, manifest: Manifest) -> None:
    files = manifest.files
    if not 0 < len(files) <= _MOST_FILES:
        raise FetchError(f"{what} lists {len(files)} files, expected 1 to {_MOST_FILES}")
    # Some file systems take names that differ in the case of letters for one.
    folded = {name.casefold() for name in (*files, MANIFEST_FILE, SIGNATURE_FILE)}
    if len(folded) != len(files) + 2:
        raise FetchError(f"{what} lists two files of one name")
    for name, file in files.items():
        if not _NAME.fullmatch(name):
            raise FetchError(f"{what} lists {name[:80]!r}, which is not a plain file name")
        if not _SHA256.fullmatch(file.sha256):
            raise FetchError(f"{what}: {name} has a SHA-256 that is none")
        if file.num_bytes < 0:
            raise FetchError(f"{what}: {name} has {file.num_bytes} bytes")
    if sum(file.num_bytes for file in files.values()) > _MOST_BYTES:
        raise FetchError(f"{what} is larger than {_MOST_BYTES >> 40} TiB")
