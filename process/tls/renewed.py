"""Files of certificates and keys that somebody renews while a program runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from process.errors import StartError

_Mark = tuple[tuple[int, ...], ...]
"""Of some files, at some time."""


class RenewedFiles:
    """Tells when files are to be taken up again. As they are when made they have been, or will be.

    Files that cannot be used are tried again each time, though they stay the same: a disk, a limit
    or a clock may be what is wrong.
    """

    def __init__(self, *files: Path) -> None:
        self.files = files
        self._mark = _mark_of(files)
        self._failed: tuple[_Mark, str] | None = None
        """The files that could not be used when they were last looked at, and why."""

    def look(self, take_up: Callable[[], None]) -> bool:
        """Take them up if they have changed; whether they have been.

        Raises:
            StartError: what `take_up` raises; once for each reason.
        """
        mark = _mark_of(self.files)
        if mark == self._mark:
            self._failed = None
            return False
        try:
            take_up()
        except StartError as error:
            failed = mark, str(error)
            is_new, self._failed = failed != self._failed, failed
            if is_new:
                raise
            return False
        self._mark, self._failed = mark, None
        return True


def _mark_of(files: Sequence[Path]) -> _Mark:
    """Changes with the files, also where they are links that are turned to others."""
    try:
        found = [path.stat() for path in files]
    except OSError:
        return ()
    return tuple(
        (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns)
        for each in found
    )
