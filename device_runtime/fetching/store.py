"""Where fetched bundles lie, and what has come of those that are on their way.

Beside the bundles that `hat up` makes: a folder for each, by its fingerprint and digest, which is
there whole or not at all. What is on its way lies in a hidden folder, each file under its SHA-256,
so that whatever broke a download off, and whatever bundle comes next, it goes on from there.
"""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_runtime.fetching.keeping import Keeper
from device_runtime.fetching.listing import FetchError, Listing, Wanted
from process.errors import system_reason
from submodels.bundle.bundle import load_bundle
from submodels.bundle.manifest_file import MANIFEST_FILE, manifest_bytes, read_manifest
from submodels.bundle.signature import SIGNATURE_FILE
from submodels.bundle.whole_file import replace_whole
from submodels.checkpoint.staging import alone_in
from submodels.errors import BundleError
from submodels.tensors.file_hashes import sha256_of

ROLE = "device"
_PARTS = ".fetching"
_NOTES = ".of-clouds"
_SPARE_BYTES = 64 << 20
"""Left free beside what is fetched, for whatever else writes there."""

_OLD_S = 7 * 86_400.0
"""Parts that nobody went on with for so long are removed."""


_USUALLY_KEPT = 3


class BusyError(Exception):
    """Another process fetches."""


class Store:
    """The bundles below `root`, of which so many stay. One process fetches at a time."""

    def __init__(self, root: Path, num_kept: int = _USUALLY_KEPT) -> None:
        self._root = root
        self._parts = root / _PARTS
        self._keeper = Keeper(root, num_kept)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold what is on its way.

        Raises:
            BusyError: another process does.
            FetchError: the folder cannot be made, or held.
        """
        with contextlib.ExitStack() as held:
            try:
                self._parts.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Windows has no such locks; two downloads there find each other's bytes wrong.
                if sys.platform != "win32":
                    held.enter_context(alone_in(self._parts, _busy))
            except OSError as error:
                reason = system_reason(error)
                raise FetchError(f"cannot keep bundles in {self._root}: {reason}") from error
            yield

    def kept(self, listing: Listing, key: str | None) -> Path | None:
        """The folder of a bundle that was fetched before and is sound; None: there is none."""
        folder = self._root / listing.folder_name
        try:
            bundle = load_bundle(folder, "device", key=key)
            is_this = manifest_bytes(bundle.path) == listing.text
        except BundleError:
            return None
        return folder if is_this else None

    def last_of(self, cloud: str) -> Path | None:
        """The folder of the bundle that was fetched last from a cloud, if it is still there."""
        try:
            name = self._note(cloud).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        folder = self._root / Path(name).name
        return folder if name and (folder / ROLE / MANIFEST_FILE).is_file() else None

    def use(self, folder: Path, unix_s: float) -> bool:
        """Hold a bundle, so that nobody removes it; False: it is gone."""
        return self._keeper.use(folder, unix_s)

    def remember(self, cloud: str, folder: Path) -> None:
        """Note which bundle a cloud's is; where that cannot be written, nothing is noted."""
        with contextlib.suppress(OSError):
            note = self._note(cloud)
            note.parent.mkdir(mode=0o700, exist_ok=True)
            replace_whole(note, f"{folder.name}\n".encode())

    def remove_old(self) -> None:
        """Remove the bundles that were used longest ago, but for those that devices run with."""
        for folder in self._keeper.remove_old():
            self._forget_notes(folder)

    def _forget_notes(self, folder: Path) -> None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for note in (self._root / _NOTES).iterdir():
                if note.read_text().strip() == folder.name:
                    note.unlink()

    def begin(self, listing: Listing, unix_s: float) -> dict[str, int]:
        """What is here of a bundle's files, in bytes by SHA-256; files of other bundles count.

        Raises:
            FetchError: the rest does not fit the disk.
        """
        try:
            self._forget_old(listing, unix_s)
            self._reuse(listing)
            for each in listing.wanted:
                if not each.num_bytes:
                    self.part(each).touch(0o600)
            kept = {each.sha256: self._size(each) for each in listing.wanted}
            missing = sum(max(0, each.num_bytes - kept[each.sha256]) for each in listing.wanted)
            free = shutil.disk_usage(self._parts).free
        except OSError as error:
            reason = system_reason(error)
            raise FetchError(f"cannot keep bundles in {self._root}: {reason}") from error
        if missing and missing + _SPARE_BYTES > free:
            raise FetchError(
                f"the bundle takes {missing / 1e6:,.0f} MB more in {self._root}, and "
                f"{free / 1e6:,.0f} MB are free there; folders in it that no device runs with may "
                "be removed, or HAT_CACHE names another disk"
            )
        return kept

    def part(self, file: Wanted) -> Path:
        """Where the bytes of a file lie until all of its bundle are here."""
        return self._parts / file.sha256

    def forget(self, file: Wanted) -> None:
        """Remove what is here of a file.

        Raises:
            FetchError: the disk does not let it.
        """
        try:
            self.part(file).unlink(missing_ok=True)
        except OSError as error:
            raise FetchError(f"cannot remove {self.part(file)}: {system_reason(error)}") from error

    def install(self, listing: Listing, key: str | None) -> Path:
        """Put a bundle together whose files are all here and right.

        Raises:
            BundleError: it is no bundle all the same; nothing of it is kept.
            FetchError: the disk does not let it.
        """
        folder = self._root / listing.folder_name
        partial = self._root / f".{listing.folder_name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / ROLE).mkdir(parents=True)
            for file in listing.wanted:
                _place(self.part(file), [partial / ROLE / name for name in file.names])
            (partial / ROLE / MANIFEST_FILE).write_bytes(listing.text)
            if listing.signatures is not None:
                (partial / ROLE / SIGNATURE_FILE).write_bytes(listing.signatures)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        except OSError as error:
            reason = system_reason(error)
            raise FetchError(f"cannot put the bundle into {folder}: {reason}") from error
        try:
            load_bundle(folder, "device", key=key)
        except BundleError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _note(self, cloud: str) -> Path:
        return self._root / _NOTES / hashlib.sha256(cloud.encode()).hexdigest()[:32]

    def _size(self, file: Wanted) -> int:
        try:
            return self.part(file).stat().st_size
        except FileNotFoundError:
            return 0

    def _forget_old(self, listing: Listing, unix_s: float) -> None:
        wanted = {each.sha256 for each in listing.wanted}
        for path in self._parts.iterdir():
            if path.name not in wanted and unix_s - path.stat().st_mtime > _OLD_S:
                path.unlink(missing_ok=True)

    def _reuse(self, listing: Listing) -> None:
        """Files that other fetched bundles hold as well are not fetched."""
        missing = {each.sha256: each for each in listing.wanted if not self.part(each).exists()}
        for folder in self._root.glob(f"*/{ROLE}"):
            if not missing:
                return
            try:
                files = read_manifest(folder).files
            except BundleError:
                continue
            for name, listed in files.items():
                file = missing.get(listed.sha256)
                path = folder / name
                if file is not None and path.is_file() and path.stat().st_size == file.num_bytes:
                    _link_or_copy(path, self.part(file))
                    del missing[listed.sha256]


def _busy() -> None:
    raise BusyError


def _place(part: Path, places: list[Path]) -> None:
    for place in places[1:]:
        _link_or_copy(part, place)
    os.replace(part, places[0])


def _link_or_copy(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:
        # Some file systems know no links.
        shutil.copyfile(path, other)


def hash_of(path: Path) -> str:
    """The SHA-256 (hex) of what has come of a file.

    Raises:
        FetchError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise FetchError(f"cannot read {path}: {system_reason(error)}") from error
