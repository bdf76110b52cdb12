"""Which fetched bundles stay: the newest by their last use, and whatever a device runs with."""

import logging
import os
import re
import shutil
import sys
from pathlib import Path

from process.errors import system_reason
from submodels.bundle.manifest_file import MANIFEST_FILE

_log = logging.getLogger(__name__)

_ROLE = "device"
_FETCHED = re.compile(r"[\w.-]+-[0-9a-f]{12}-[0-9a-f]{12}", re.ASCII)
_HELD = 2

_REMOVED = ".removed"
"""Behind the name of what is being removed, so that nobody takes half of it for a bundle."""


class Keeper:
    """Holds the bundles that this process runs with, and removes old ones. `root`: where all lie.

    Windows has no such locks, so there nothing is held and nothing removed.
    """

    def __init__(self, root: Path, num_kept: int) -> None:
        self._root = root
        self._num_kept = num_kept
        self._held: dict[Path, int] = {}

    def use(self, folder: Path, unix_s: float) -> bool:
        """Hold a bundle, and note the time; False: it is gone.

        Until this process ends or uses two others: while a device goes over to a new bundle, it
        still runs with the old one.
        """
        if sys.platform == "win32":
            return True
        if folder in self._held:
            self._held[folder] = self._held.pop(folder)
            return True
        import fcntl

        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.utime(folder, (unix_s, unix_s))
        except BlockingIOError:
            # Somebody removes it.
            os.close(descriptor)
            return False
        except OSError as error:
            # A file system without locks, or one that is read only: it is used all the same.
            _log.debug("%s is not held: %s", folder, system_reason(error))
        self._held[folder] = descriptor
        for each in list(self._held)[:-_HELD]:
            os.close(self._held.pop(each))
        return (folder / _ROLE / MANIFEST_FILE).is_file()

    def remove_old(self) -> list[Path]:
        """Remove all but the newest, and say so; what cannot be removed stays, which is said too.

        Returns:
            What was removed.
        """
        if sys.platform == "win32":
            return []
        removed = []
        for folder in sorted(self._fetched(), key=_last_use_s, reverse=True)[self._num_kept :]:
            try:
                if folder in self._held or not self._remove(folder):
                    continue
            except OSError as error:
                _log.warning("cannot remove %s: %s", folder, system_reason(error))
                continue
            removed.append(folder)
        return removed

    def _fetched(self) -> list[Path]:
        """What was fetched and is nothing else: `hat up` keeps bundles there as well."""
        try:
            folders = [path for path in self._root.iterdir() if _FETCHED.fullmatch(path.name)]
            return [each for each in folders if _is_bundle_alone(each)]
        except OSError:
            return []

    def _remove(self, folder: Path) -> bool:
        """Remove a bundle that no device runs with; whether it is gone."""
        import fcntl

        num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = folder.with_name(f".{folder.name}{_REMOVED}")
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        shutil.rmtree(gone)
        kept = f"{self._num_kept} bundles that were used last are"
        if self._num_kept == 1:
            kept = "bundle that was used last is"
        _log.info("removed %s (%.1f MB): the %s kept", folder, num_bytes / 1e6, kept)
        return True


def hold_named(path: Path, unix_s: float) -> None:
    """Hold the fetched bundle that somebody has named by its path, if it is one, as `use` does.

    It may lie in any cache, and be named itself, by a link, or by what lies in it.
    """
    whole = Path(os.path.realpath(path))
    for folder in (whole, whole.parent):
        if _FETCHED.fullmatch(folder.name) and (folder / _ROLE).is_dir():
            Keeper(folder.parent, 1).use(folder, unix_s)


def _is_bundle_alone(folder: Path) -> bool:
    """A folder of ours with a device bundle, in which nobody has put anything."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()]
    return names == [_ROLE] and (folder / _ROLE / MANIFEST_FILE).is_file()


def _last_use_s(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
