"""Reading a bundle: what `hat split` wrote, checked before anything is loaded. Needs no torch."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from process.machine import cache_folder
from submodels.bundle.contents import Hashing, check_contents, say_in_the_log
from submodels.bundle.fingerprint import fingerprint_of
from submodels.bundle.manifest_file import MANIFEST_FILE, manifest_bytes, parse_manifest
from submodels.bundle.model_files import ModelFiles
from submodels.bundle.signature import SIGNATURE_FILE, check_signature, read_signatures
from submodels.errors import BundleError
from submodels.manifest import Manifest, Role
from submodels.plan.checks import check_ropes, check_shape, check_split
from submodels.tensors.file_hashes import VerifiedFiles
from submodels.tensors.tensor_file import TensorFile, TensorFileError
from submodels.tensors.tensor_layout import Part, placements

_PARTS: Mapping[Role, tuple[Part, ...]] = {
    "device": (Part.INPUT, Part.OUTPUT),
    "cloud": (Part.MIDDLE,),
}
_VERIFIED_FOLDER = "verified"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that has passed its checks: `path` is the folder that holds `hat.json`."""

    path: Path
    manifest: Manifest

    @property
    def files(self) -> ModelFiles:
        """Its files by name: those that `hat.json` lists, and no others."""
        return ModelFiles(self.path, frozenset(self.manifest.files))

    def open_tensors(self, part: Part) -> TensorFile:
        """The safetensors file of a part, memory-mapped.

        Raises:
            BundleError: this bundle does not hold the part as plain numbers, or the file changed
                since loading.
        """
        kept = self.manifest.kept_quantisation
        if part is Part.MIDDLE and kept is not None:
            raise BundleError(
                f"the layers of {self.path} are kept as {kept} has quantised them, which only "
                "`hat cloud --engine vllm` runs: split again without --keep-quantisation"
            )
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

    def unlisted(self) -> tuple[str, ...]:
        """Names of what lies in the folder and is not the bundle's; hidden files do not count."""
        known = {MANIFEST_FILE, SIGNATURE_FILE, *self.manifest.files}
        names = sorted(path.name for path in self.path.iterdir())
        return tuple(name for name in names if name not in known and not name.startswith("."))


def load_bundle(
    path: Path,
    role: Role,
    verify: bool = False,
    say: Callable[[str], None] = say_in_the_log,
    key: str | None = None,
) -> Bundle:
    """The bundle at `path`: the role's own folder, or the folder `hat split` wrote.

    Every file is hashed, large ones once for each version of them (inode, size, times), which is
    remembered in the user's cache; with `verify` always. `say` is told when that takes long.
    With a `key` that is pinned (`ed25519:` and base64) it must have signed the bundle, and every
    file is hashed.

    Raises:
        BundleError: missing, incomplete, corrupt, of the other role, of another format, or not
            signed by the key; it lists a link out of its folder, or weights that its fingerprint
            does not cover.
    """
    folder = find_bundle(path, role)
    text = manifest_bytes(folder)
    if key is not None:
        check_signature(folder, text, read_signatures(folder), key)
    manifest = parse_manifest(text, folder / MANIFEST_FILE)
    require_role(folder, manifest, role)
    check_manifest(manifest, folder / MANIFEST_FILE)
    placed = placements(manifest.shape, manifest.num_input_layers, manifest.num_output_layers)
    parts = {
        part.value: {placement.name: placement for placement in placed if placement.part is part}
        for part in _PARTS[role]
        if manifest.kept_quantisation is None
    }
    verified = VerifiedFiles(cache_folder(os.environ) / _VERIFIED_FOLDER)
    check_contents(folder, manifest, parts, Hashing(verified, verify or key is not None, say))
    return Bundle(folder, manifest)


def find_bundle(path: Path, role: Role) -> Path:
    """The folder of a role's bundle at `path`: that itself, or the one below it.

    Raises:
        BundleError: there is no manifest in either.
    """
    for folder in (path, path / role):
        if (folder / MANIFEST_FILE).is_file():
            return folder
    raise BundleError(
        f"no {role} bundle at {path}: expected {MANIFEST_FILE} there or in {path / role} "
        "(`hat split` makes bundles)"
    )


def require_role(folder: Path, manifest: Manifest, role: Role) -> None:
    """Return where the bundle in `folder` is for this program.

    Raises:
        BundleError: it is the other program's.
    """
    if manifest.role != role:
        raise BundleError(f"{folder} is a {manifest.role} bundle, expected a {role} bundle")


def check_manifest(manifest: Manifest, place: Path | str) -> None:
    """Return if what a manifest says goes together; `place` is where it came from, for messages.

    Raises:
        BundleError: it does not.
    """
    try:
        check_shape(manifest.shape)
        check_split(
            manifest.shape.num_layers, manifest.num_input_layers, manifest.num_output_layers
        )
        check_ropes(manifest.shape, manifest.rope_parameters)
        served = fingerprint_of(manifest.shape, manifest.rope_parameters, manifest.tensors)
        if manifest.fingerprint != served:
            raise ValueError(
                f"fingerprint: its tensors give {served}, it says {manifest.fingerprint!r}"
            )
    except ValueError as error:
        raise BundleError(f"{place}: {error}") from error
    missing = {part.value for part in _PARTS[manifest.role]} - manifest.files.keys()
    if missing:
        raise BundleError(f"{place} does not list {', '.join(sorted(missing))}")


def _open(path: Path) -> TensorFile:
    try:
        return TensorFile(path)
    except TensorFileError as error:
        raise BundleError(str(error)) from error
