"""The small files of a model by their names: a checkpoint's folder, or what a bundle lists."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from process.errors import shown
from submodels.bundle.manifest_file import MANIFEST_FILE, check_regular, read_manifest
from submodels.errors import BundleError

# Tokenizers of the largest vocabularies take some 30 MiB.
_MAX_JSON_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What may be read of a folder. `listed` None: whatever lies there, links included.

    In a bundle only what `hat.json` lists exists, so that a file put beside the others, or a link
    to somewhere else, changes nothing.
    """

    folder: Path
    listed: frozenset[str] | None = None

    def path(self, name: str) -> Path | None:
        """Where a file lies; None when there is none of this name.

        Raises:
            BundleError: listed, and missing or a link out of the bundle.
        """
        path = self.folder / name
        if self.listed is None:
            return path if path.is_file() else None
        if name not in self.listed:
            return None
        check_regular(self.folder, name)
        return path

    def text(self, name: str) -> str | None:
        """A file's text; None when there is none.

        Raises:
            BundleError: it cannot be read, or is not UTF-8.
        """
        path = self.path(name)
        try:
            return None if path is None else path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"cannot read {path}: {error}") from error

    def json(self, name: str) -> dict[str, Any]:
        """A file's JSON object; empty when there is no such file.

        Raises:
            BundleError: it cannot be read, or is not a JSON object.
        """
        path = self.path(name)
        if path is None:
            return {}
        try:
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise BundleError(f"{path} is larger than {_MAX_JSON_BYTES} bytes")
            return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except OSError as error:
            raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BundleError(f"{path} is not a valid JSON object: {shown(error)}") from error


def model_files(folder: Path) -> ModelFiles:
    """The files of a folder: those its `hat.json` lists, if it has one.

    Raises:
        BundleError: the manifest is unusable.
    """
    if (folder / MANIFEST_FILE).exists() or (folder / MANIFEST_FILE).is_symlink():
        return ModelFiles(folder, frozenset(read_manifest(folder).files))
    return ModelFiles(folder)
