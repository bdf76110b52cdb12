"""A folder that appears under its name only once it is whole."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from submodels.errors import SplitError


@contextmanager
def staged_folder(out: Path, parts: tuple[str, ...], overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name when the body ends without error.

    It holds one empty folder for each of `parts`. A body that fails leaves nothing behind; one
    that is killed leaves a hidden folder which the next attempt removes.

    Raises:
        SplitError: `out` exists and may not be replaced, or another process is writing it.
    """
    out = Path(os.path.abspath(out))
    _check_replaceable(out, parts, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial"
    partial.mkdir(exist_ok=True)
    lock = _lock(partial)
    try:
        _empty(partial)
        for part in parts:
            (partial / part).mkdir()
        yield partial
        _sync_tree(partial)
        _check_replaceable(out, parts, overwrite)
        _put_in_place(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


@contextmanager
def alone_in(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a folder that exists while the body runs; no other process holds it then.

    `waiting` is called once where another one has it. A killed process lets go by itself.

    Raises:
        OSError: the folder cannot be opened, or its file system knows no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            _take(descriptor, waits=False)
        except BlockingIOError:
            waiting()
            _take(descriptor, waits=True)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, *, waits: bool) -> None:
    """Lock it for this process alone.

    Raises:
        BlockingIOError: another one has it, and nobody `waits`.
    """
    # Not at the top: on Windows, which lacks it, a device is a device all the same.
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _check_replaceable(out: Path, parts: tuple[str, ...], overwrite: bool) -> None:
    """Only an empty folder, or with `overwrite` one that holds nothing but parts, may go."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise SplitError(f"{out} exists and is not a folder")
    names = {path.name for path in out.iterdir()}
    if names - set(parts):
        raise SplitError(f"{out} holds other files, such as {min(names - set(parts))}")
    if names and not overwrite:
        raise SplitError(f"{out} exists; allow overwriting, or choose another folder")


def _lock(folder: Path) -> int:
    """Hold the folder until the descriptor is closed; a killed process lets go by itself."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _take(descriptor, waits=False)
        # The folder may have been renamed by a process that was just finishing.
        if not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise BlockingIOError
    except OSError as error:
        os.close(descriptor)
        raise SplitError(f"another process is writing {folder}") from error
    return descriptor


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync_tree(folder: Path) -> None:
    """Files before the folders that name them."""
    for directory, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(directory, name))
        _sync(Path(directory))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(partial: Path, out: Path) -> None:
    """Rename; the folder that was there is set aside first, and put back on failure."""
    aside = out.parent / f".{out.name}.replaced"
    if out.exists():
        shutil.rmtree(aside, ignore_errors=True)
        out.rename(aside)
    try:
        partial.rename(out)
    except BaseException:
        if aside.exists():
            aside.rename(out)
        raise
    _sync(out.parent)
    shutil.rmtree(aside, ignore_errors=True)
