"""Reading `hat.json` itself, before anything that it lists."""

from pathlib import Path
from typing import Any

import msgspec

from process.errors import shown
from submodels.errors import BundleError
from submodels.manifest import FORMAT_VERSION, Manifest

MANIFEST_FILE = "hat.json"

# A hash per tensor: some hundred KiB for the largest models; the bound keeps a wrong file from
# being read whole.
MAX_MANIFEST_BYTES = 16 << 20


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder.

    Raises:
        BundleError: missing, a link out of the folder, no manifest, or of another format.
    """
    return parse_manifest(manifest_bytes(folder), folder / MANIFEST_FILE)


def manifest_bytes(folder: Path) -> bytes:
    """What the manifest's file in a folder holds.

    Raises:
        BundleError: missing, a link out of the folder, too large, or it cannot be read.
    """
    path = folder / MANIFEST_FILE
    check_regular(folder, MANIFEST_FILE)
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error


def parse_manifest(text: bytes, path: Path | str) -> Manifest:
    """The manifest that a text is; `path` is where it came from, for messages.

    Raises:
        BundleError: it is none, or of another format.
    """
    try:
        _check_version(path, msgspec.json.decode(text, type=dict[str, Any]).get("format_version"))
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path} is not a valid manifest: {shown(error)}") from error


def check_regular(folder: Path, name: str) -> None:
    """Whether a name is that of a regular file inside the folder; the folder itself may be a link.

    Links from file to file inside the folder are fine: mounted volumes are made of them.

    Raises:
        BundleError: it is missing, something else, or leads out of the folder.
    """
    if not name or Path(name).name != name or name == ".." or "\0" in name:
        raise BundleError(f"{folder / MANIFEST_FILE}: {name!r} is not a plain file name")
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{path} is a link out of the bundle's folder; put the file there")
        if not path.is_file():
            there = "not a regular file" if path.exists() else "missing"
            raise BundleError(f"{path} is {there}; the bundle is incomplete, split again")
    except (OSError, RuntimeError) as error:
        raise BundleError(f"cannot read {path}: {error}") from error


def _check_version(path: Path | str, version: object) -> None:
    if not isinstance(version, int) or version < 1:
        raise BundleError(f"{path}: expected a format_version of 1 or more, got {version!r}")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {version}, this program reads up to {FORMAT_VERSION}: "
            "update it, or split again"
        )
    if version < FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {version}, which says nothing of each tensor; this program "
            f"reads version {FORMAT_VERSION}: split again (`hat split`)"
        )
