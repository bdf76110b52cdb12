"""Hashes of files and of tensors, and which versions of files have been hashed before."""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from submodels.manifest import WrittenTensor
from submodels.tensors.tensor_file import TensorInfo

_PIECE_BYTES = 1 << 22
# A file changed again within a tick of the disk's clock keeps its times; the coarsest tick in
# use is FAT's two seconds.
_SETTLED_NS = 2_000_000_000


def sha256_of(path: Path) -> str:
    """The SHA-256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return _sha256(file, None)


def tensor_hash(path: Path, info: TensorInfo) -> WrittenTensor:
    """Number format and hash of one tensor of a safetensors file."""
    with path.open("rb") as file:
        file.seek(info.start)
        return WrittenTensor(dtype=info.dtype, sha256=_sha256(file, info.num_bytes))


def _sha256(file: BinaryIO, num_left: int | None) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_PIECE_BYTES if num_left is None else min(_PIECE_BYTES, num_left)):
        digest.update(piece)
        num_left = None if num_left is None else num_left - len(piece)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What changes when a file does: where it lies, its inode, size, and both its times."""

    path: str
    numbers: tuple[int, ...]
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileVersion":
        """The version that lies there now.

        Raises:
            OSError: it cannot be looked at.
        """
        stat = path.stat()
        numbers = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        return cls(str(path.resolve()), numbers, max(stat.st_mtime_ns, stat.st_ctime_ns))


class VerifiedFiles:
    """Versions of files that were found to hold what they should, kept in the user's own cache.

    Not beside the files: who can replace these could replace such a note as well. A folder that
    cannot be written remembers nothing, so that files are hashed at every load.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def knows(self, version: FileVersion, content: str) -> bool:
        """Whether this version was found to hold `content` (any text that names it)."""
        try:
            return self._note(version).read_text() == _line(version, content)
        except (OSError, UnicodeDecodeError):
            return False

    def remember(self, version: FileVersion, content: str) -> None:
        """Keep this version as one that holds `content`, if it can no longer change unnoticed."""
        if time.time_ns() - version.changed_ns < _SETTLED_NS:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False) as file:
                file.write(_line(version, content))
            os.replace(file.name, self._note(version))

    def _note(self, version: FileVersion) -> Path:
        return self._folder / hashlib.sha256(version.path.encode()).hexdigest()[:32]


def _line(version: FileVersion, content: str) -> str:
    return f"{' '.join(map(str, version.numbers))} {content}\n"


def joined(hashes: Iterable[str]) -> str:
    """One text for many hashes in their order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
