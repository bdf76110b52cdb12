"""Whether the files of a bundle hold what its `hat.json` says, byte for byte."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from submodels.bundle.manifest_file import MANIFEST_FILE, check_regular
from submodels.errors import BundleError
from submodels.manifest import Manifest
from submodels.onnx.external_data import check_external_data
from submodels.tensors.file_hashes import FileVersion, VerifiedFiles, joined, sha256_of, tensor_hash
from submodels.tensors.tensor_file import TensorFileError, TensorInfo, read_header
from submodels.tensors.tensor_layout import Placement

# Files up to this size are hashed on every load: configuration and tokenizer settings.
_ALWAYS_HASHED_BYTES = 1 << 20
# Hashing runs at about a gigabyte a second; below this nobody notices.
_LONG_BYTES = 1 << 30

_log = logging.getLogger(__name__)


def say_in_the_log(text: str) -> None:
    """How a program that has a log says that something takes long."""
    _log.info("%s", text)


@dataclass(frozen=True, slots=True)
class Hashing:
    """Which versions were verified before, whether to hash all the same, and whom to tell."""

    verified: VerifiedFiles
    always: bool
    say: Callable[[str], None]


def check_contents(
    folder: Path,
    manifest: Manifest,
    parts: Mapping[str, Mapping[str, Placement]],
    hashing: Hashing,
) -> None:
    """Sizes, hashes and kinds of all listed files, and every tensor of the parts.

    A part's header says where its tensors lie, without gaps; each tensor's own hash then covers
    the rest of the file. These hashes are what the fingerprint is made of.

    Args:
        folder: The bundle's.
        manifest: Its manifest, whose fingerprint fits its tensors.
        parts: For each safetensors file of a part, where its tensors come from, by their names.
        hashing: How thorough to be.

    Raises:
        BundleError: something is not as it was split.
    """
    try:
        for name in manifest.files:
            _check_size(folder, name, manifest)
        pending = []
        for name in manifest.files:
            path = folder / name
            expected, check = _expectation(path, manifest, parts.get(name))
            version = FileVersion.of(path)
            is_small = path.stat().st_size <= _ALWAYS_HASHED_BYTES
            if hashing.always or is_small or not hashing.verified.knows(version, expected):
                pending.append((path, version, expected, check))
        _check_pending(folder, pending, hashing)
        for name in manifest.files:
            if name.endswith(".onnx"):
                check_external_data(folder / name, manifest.files)
    except OSError as error:
        raise BundleError(f"cannot read the bundle {folder}: {error}") from error


_Pending = tuple[Path, FileVersion, str, Callable[[], None]]


def _check_pending(folder: Path, pending: list[_Pending], hashing: Hashing) -> None:
    num_bytes = sum(path.stat().st_size for path, *_ in pending)
    if num_bytes > _LONG_BYTES:
        when = "as asked" if hashing.always else "once for each version of its files"
        hashing.say(f"hashing {num_bytes / 1e9:.1f} GB of {folder} ({when}) ...")
    for path, version, expected, check in pending:
        check()
        if FileVersion.of(path) != version:
            raise BundleError(f"{path} changed while it was read")
        if path.stat().st_size > _ALWAYS_HASHED_BYTES:
            hashing.verified.remember(version, expected)


def _check_size(folder: Path, name: str, manifest: Manifest) -> None:
    check_regular(folder, name)
    num_bytes, expected = (folder / name).stat().st_size, manifest.files[name].num_bytes
    if num_bytes != expected:
        raise BundleError(f"{folder / name}: expected {expected} bytes, found {num_bytes}")


def _expectation(
    path: Path, manifest: Manifest, part: Mapping[str, Placement] | None
) -> tuple[str, Callable[[], None]]:
    """What the file should hold, as one text, and the check that reads it."""
    if part is None:
        sha256 = manifest.files[path.name].sha256
        return sha256, lambda: _check_hash(path, sha256)
    infos = _checked_header(path, part, manifest)
    hashes = [f"{name} {manifest.tensors[part[name].source].sha256}" for name in infos]
    return joined(hashes), lambda: _check_tensors(path, infos, part, manifest)


def _check_hash(path: Path, expected: str) -> None:
    came = sha256_of(path)
    if came != expected:
        raise BundleError(f"{path} is corrupt: expected SHA-256 {expected}, got {came}")


def _checked_header(
    path: Path, part: Mapping[str, Placement], manifest: Manifest
) -> Mapping[str, TensorInfo]:
    """Names, shapes and formats in the file are those of the manifest's split."""
    try:
        infos = read_header(path)
    except TensorFileError as error:
        raise BundleError(str(error)) from error
    if infos.keys() != part.keys():
        differing = sorted(infos.keys() ^ part.keys())
        raise BundleError(f"{path}: tensors do not match {MANIFEST_FILE}: {differing[:5]}")
    for name, info in infos.items():
        written = manifest.tensors.get(part[name].source)
        if written is None:
            raise BundleError(f"{path.parent / MANIFEST_FILE} does not list {part[name].source}")
        expected = (written.dtype, part[name].shape)
        if (info.dtype, info.shape) != expected:
            raise BundleError(
                f"{path}: {name} has format and shape {(info.dtype, info.shape)}, "
                f"expected {expected}"
            )
    return infos


def _check_tensors(
    path: Path,
    infos: Mapping[str, TensorInfo],
    part: Mapping[str, Placement],
    manifest: Manifest,
) -> None:
    for name, info in infos.items():
        expected, came = manifest.tensors[part[name].source], tensor_hash(path, info)
        if came != expected:
            raise BundleError(
                f"{path} is corrupt: {name} has SHA-256 {came.sha256}, "
                f"the fingerprint was made of {expected.sha256}"
            )
