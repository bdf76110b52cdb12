"""Reading a bundle: what `hat split` wrote, checked before anything is loaded. Needs no torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from submodels.errors import BundleError
from submodels.manifest import FORMAT_VERSION, Manifest, Role
from submodels.shape_checks import check_shape, check_split
from submodels.tensor_file import TensorFile, TensorFileError
from submodels.tensor_layout import Part, Placement, placements

MANIFEST_FILE = "hat.json"
_PARTS: Mapping[Role, tuple[Part, ...]] = {
    "device": (Part.INPUT, Part.OUTPUT),
    "cloud": (Part.MIDDLE,),
}
# hat.json is a few KiB; the bound keeps a wrong file from being read whole.
_MAX_MANIFEST_BYTES = 16 << 20
# Files up to this size are hashed on every load: configuration and tokenizer settings.
_ALWAYS_VERIFIED_BYTES = 1 << 20
_HASH_PIECE_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that has passed its checks: `path` is the folder that holds `hat.json`."""

    path: Path
    manifest: Manifest

    def open_tensors(self, part: Part) -> TensorFile:
        """The safetensors file of a part, memory-mapped.

        Raises:
            BundleError: this bundle does not hold the part, or the file changed since loading.
        """
        if part not in _PARTS[self.manifest.role]:
            raise BundleError(f"a {self.manifest.role} bundle has no {part.value}: {self.path}")
        return _open(self.path / part.value)

    def read_tensor(self, part: Part, name: str) -> NDArray[Any]:
        """One tensor, memory-mapped and read-only (float32, float16 or ml_dtypes.bfloat16).

        Raises:
            BundleError: no such part.
            KeyError: no such tensor.
        """
        return self.open_tensors(part).read(name)


def load_bundle(path: Path, role: Role, verify: bool = False) -> Bundle:
    """The bundle at `path`: the role's own folder, or the folder `hat split` wrote.

    Sizes of all files and headers of all tensor files are checked; SHA-256 only of small files,
    or of all with `verify`.

    Raises:
        BundleError: missing, incomplete, corrupt, of the other role, or of a newer format.
    """
    folder = _find(path, role)
    manifest = _read_manifest(folder / MANIFEST_FILE)
    if manifest.role != role:
        raise BundleError(f"{folder} is a {manifest.role} bundle, expected a {role} bundle")
    _check_manifest(folder, manifest)
    try:
        for name in manifest.files:
            _check_file(folder, name, manifest, verify)
    except OSError as error:
        raise BundleError(f"cannot read the bundle {folder}: {error}") from error
    for part in _PARTS[role]:
        _check_tensors(folder / part.value, part, manifest)
    return Bundle(folder, manifest)


def sha256_of(path: Path) -> str:
    """The SHA-256 (hex) of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASH_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _find(path: Path, role: Role) -> Path:
    for folder in (path, path / role):
        if (folder / MANIFEST_FILE).is_file():
            return folder
    raise BundleError(
        f"no {role} bundle at {path}: expected {MANIFEST_FILE} there or in {path / role} "
        "(`hat split` makes bundles)"
    )


def _read_manifest(path: Path) -> Manifest:
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} is larger than {_MAX_MANIFEST_BYTES} bytes")
        text = path.read_bytes()
        version = msgspec.json.decode(text, type=dict[str, Any]).get("format_version")
        if not isinstance(version, int) or version < 1:
            raise BundleError(f"{path}: expected a format_version of 1 or more, got {version!r}")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{path} has format version {version}, this program reads up to {FORMAT_VERSION}: "
                "update it, or split again"
            )
        return msgspec.json.decode(text, type=Manifest)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path} is not a valid manifest: {error}") from error


def _check_manifest(folder: Path, manifest: Manifest) -> None:
    try:
        check_shape(manifest.shape)
        check_split(
            manifest.shape.num_layers, manifest.num_input_layers, manifest.num_output_layers
        )
        if len(bytes.fromhex(manifest.fingerprint)) != 32:
            raise ValueError(f"fingerprint: expected 64 hex digits, got {manifest.fingerprint!r}")
    except ValueError as error:
        raise BundleError(f"{folder / MANIFEST_FILE}: {error}") from error
    missing = {part.value for part in _PARTS[manifest.role]} - manifest.files.keys()
    if missing:
        raise BundleError(f"{folder / MANIFEST_FILE} does not list {', '.join(sorted(missing))}")


def _check_file(folder: Path, name: str, manifest: Manifest, verify: bool) -> None:
    expected = manifest.files[name]
    if not name or Path(name).name != name or name == "..":
        raise BundleError(f"{folder / MANIFEST_FILE}: {name!r} is not a plain file name")
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{path} is missing; the bundle is incomplete, split again")
    num_bytes = path.stat().st_size
    if num_bytes != expected.num_bytes:
        raise BundleError(f"{path}: expected {expected.num_bytes} bytes, found {num_bytes}")
    if verify or num_bytes <= _ALWAYS_VERIFIED_BYTES:
        came = sha256_of(path)
        if came != expected.sha256:
            raise BundleError(f"{path} is corrupt: expected SHA-256 {expected.sha256}, got {came}")


def _check_tensors(path: Path, part: Part, manifest: Manifest) -> None:
    """Names and shapes in the file are those of the manifest's split."""
    placed = placements(manifest.shape, manifest.num_input_layers, manifest.num_output_layers)
    expected: dict[str, Placement] = {p.name: p for p in placed if p.part is part}
    tensors = _open(path).tensors
    if tensors.keys() != expected.keys():
        differing = sorted(tensors.keys() ^ expected.keys())
        raise BundleError(f"{path}: tensors do not match {MANIFEST_FILE}: {differing[:5]}")
    for name, info in tensors.items():
        if info.shape != expected[name].shape:
            raise BundleError(
                f"{path}: {name} has shape {info.shape}, expected {expected[name].shape}"
            )


def _open(path: Path) -> TensorFile:
    try:
        return TensorFile(path)
    except TensorFileError as error:
        raise BundleError(str(error)) from error
