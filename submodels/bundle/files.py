"""Adding files to a bundle that exists: at every moment `hat.json` lists only files that are there.

A crash in between leaves the bundle as it was without these files, never one that fails its checks.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from submodels.bundle.bundle import Bundle
from submodels.bundle.manifest_file import MANIFEST_FILE
from submodels.bundle.whole_file import replace_whole
from submodels.manifest import BundleFile, Manifest
from submodels.tensors.file_hashes import sha256_of


def replace_files(bundle: Bundle, stale: Iterable[str], fresh: Sequence[Path]) -> Manifest:
    """Take `stale` files out of a bundle and put copies of the `fresh` ones into it.

    Returns:
        The bundle's manifest from now on.

    Raises:
        OSError: a file cannot be read or written.
    """
    names = [path.name for path in fresh]
    gone = {*stale, *names}
    kept = {name: file for name, file in bundle.manifest.files.items() if name not in gone}
    manifest = msgspec.structs.replace(bundle.manifest, files=kept)
    _write_manifest(bundle.path, manifest)
    for name in gone:
        (bundle.path / name).unlink(missing_ok=True)
    for path in fresh:
        shutil.copyfile(path, bundle.path / path.name)
    files = dict(sorted({**kept, **{name: _listed(bundle.path / name) for name in names}}.items()))
    manifest = msgspec.structs.replace(manifest, files=files)
    _write_manifest(bundle.path, manifest)
    return manifest


def _listed(path: Path) -> BundleFile:
    return BundleFile(num_bytes=path.stat().st_size, sha256=sha256_of(path))


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    replace_whole(folder / MANIFEST_FILE, text + b"\n")
