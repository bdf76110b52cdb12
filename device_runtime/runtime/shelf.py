"""Kept sessions on disk, so that they outlive the program: small files that nobody else may read.

A file says what the cloud has cached under a key. It must never say so of a session that has gone
on since: it is removed before anything is sent there. Removals are not forced to the disk, which
would cost every turn the disk's time; so after a crash of the whole machine an old file might be
there again, and files of another boot are not believed.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from device_runtime.session.kept_text import (
    MAX_FILE_BYTES,
    DamagedFileError,
    Identity,
    KeptText,
    decode,
    encode,
)
from process.errors import PassingError, StartError, system_reason
from process.world import Clock

_log = logging.getLogger(__name__)

_SUFFIX = ".kept"
_LOCK = "lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Shelf(Protocol):
    """Where kept sessions lie beyond the life of the program."""

    identity: Identity
    unix_clock: Clock

    def load(self) -> list[KeptText]:
        """What an earlier run has left and may still be taken up, the most recently used last."""
        ...

    def put(self, kept: KeptText) -> None:
        """Write it, soon."""
        ...

    def drop(self, key: bytes) -> None:
        """Remove it, soon; repeats are harmless."""
        ...

    async def take(self, key: bytes) -> bool:
        """Remove it before the session goes on; whether that is certain."""
        ...

    async def close(self) -> None:
        """Finish what waits; all that is there stays."""
        ...


def boot_id() -> str | None:
    """A name for the time since this machine was started; None where the system gives none."""
    try:
        return _BOOT_ID.read_text().strip() or None
    except OSError:
        return None


class DiskShelf:
    """A `Shelf` in a folder of its own, which no other program may use at the same time.

    Raises:
        StartError: when made, for a folder that cannot be used, or that others may write to.
    """

    def __init__(self, folder: Path, identity: Identity, unix_clock: Clock) -> None:
        self.identity = identity
        self.unix_clock = unix_clock
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(folder)
            self._lock = _locked(folder / _LOCK)
        except OSError as error:
            reason = system_reason(error).lower()
            raise StartError(f"kept_sessions_folder: cannot use {folder}: {reason}") from error
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kept sessions")

    def load(self) -> list[KeptText]:
        found: list[KeptText] = []
        now = self.unix_clock()
        for path in sorted(self._folder.iterdir()):
            if path.suffix == ".tmp":
                self._remove(path)
            if path.suffix != _SUFFIX:
                continue
            kept = self._read(path)
            if kept is None or kept.expires_unix_s <= now:
                self._remove(path)
            elif kept.is_usable(self.identity, now):
                found.append(kept)
        return sorted(found, key=lambda kept: kept.used_unix_s)

    def put(self, kept: KeptText) -> None:
        self._later(lambda: self._write(kept))

    def drop(self, key: bytes) -> None:
        self._later(lambda: self._remove(self._path(key)))

    async def take(self, key: bytes) -> bool:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._remove, self._path(key))

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown)
        os.close(self._lock)

    def _path(self, key: bytes) -> Path:
        """A name that does not give the key away."""
        return self._folder / (sha256(key).hexdigest()[:32] + _SUFFIX)

    def _later(self, call: Callable[[], object]) -> None:
        self._executor.submit(call).add_done_callback(_log_failure)

    def _read(self, path: Path) -> KeptText | None:
        try:
            # A pipe would be waited for otherwise.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(path, flags), "rb") as file:
                kept = decode(file.read(MAX_FILE_BYTES + 1))
            if self._path(kept.key) == path:
                return kept
            reason = "it has another's name"
        except (OSError, DamagedFileError) as error:
            reason = str(error)
        _log.warning("%s is no kept session and is removed: %s", path, reason)
        return None

    def _write(self, kept: KeptText) -> None:
        """Whole or not at all; readable by the owner alone from the first moment."""
        path = self._path(kept.key)
        temporary = path.with_suffix(".tmp")
        with suppress(FileNotFoundError):
            temporary.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(encode(kept))
            os.replace(temporary, path)
        except OSError:
            # A part of it is of no use, and on a full disk in the way of those to come.
            self._remove(temporary)
            raise

    def _remove(self, path: Path) -> bool:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("cannot remove a kept session: %s", system_reason(error).lower())
            return False
        return True


def _check_owner(folder: Path) -> None:
    """Who may write here could have the device believe in another text than the cloud has."""
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        expected = "expected a folder of your own that nobody else may write to"
        raise StartError(f"kept_sessions_folder: {expected}, got {folder}")


def _locked(path: Path) -> int:
    """An open file that no other program has locked.

    Raises:
        PassingError: one has.
    """
    # Not on Windows, which names no boots either: nothing is kept there.
    import fcntl

    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        other = "another device program keeps its sessions there"
        raise PassingError(f"kept_sessions_folder: cannot use {path.parent}: {other}") from error
    return lock


def _log_failure(done: "Future[object]") -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        reason = system_reason(error).lower() if isinstance(error, OSError) else str(error)
        _log.warning("a kept session cannot be written: %s", reason)
