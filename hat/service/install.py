"""Services are written, started, asked and removed; files of others stay as they are."""

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from hat.errors import CommandError
from hat.service.description import MARK, Role, Service
from hat.service.place import Place, Words
from process.errors import system_reason

Say = Callable[[str], None]


class Supervisor(Protocol):
    """Runs the commands of systemd or launchd."""

    def __call__(self, words: Words, /) -> tuple[int, str]:
        """The exit status, and what was said.

        Raises:
            CommandError: there is no such program.
        """
        ...


def install(place: Place, text: str, supervisor: Supervisor | None, say: Say) -> None:
    """Write a service's file, replacing only one of ours, and start it.

    Without a supervisor it is only written.

    Raises:
        CommandError: another's file is in the way, or the supervisor refuses.
    """
    _refuse_foreign(place.file)
    is_new = not place.file.exists()
    _write(place.file, text)
    say(f"{'wrote' if is_new else 'wrote anew'} {place.file}")
    if supervisor is None:
        return
    if not is_new and place.file.suffix == ".plist":
        # launchd reads a file once; a running service has to be taken out first.
        _try_all(place.stop, supervisor)
    for words in place.start:
        status, said = supervisor(words)
        if status != 0:
            raise CommandError(
                f"{' '.join(words)}: exit {status}: {said.strip() or 'nothing said'}"
            )
    say(f"started; what it says: {place.log}")


def uninstall(place: Place, supervisor: Supervisor | None, say: Say) -> None:
    """Stop a service and remove its file.

    Raises:
        CommandError: there is none, or it is another's.
    """
    if not os.path.lexists(place.file):
        raise CommandError(f"there is no {place.file}")
    _refuse_foreign(place.file)
    if supervisor is not None:
        _try_all(place.stop, supervisor)
    place.file.unlink()
    if supervisor is not None:
        _try_all(place.forget, supervisor)
    say(f"removed {place.file}")


def status(place: Place, supervisor: Supervisor, say: Say) -> bool:
    """Say whether a service is installed and runs; returns the latter."""
    if not os.path.lexists(place.file):
        say(f"not installed: there is no {place.file}")
        return False
    whose = "" if _is_ours(place.file) else ", which is not from hat service install"
    code, said = supervisor(place.ask)
    # One word from systemd; launchd tells a page.
    word = said.strip().splitlines()[0] if said.strip() else ""
    state = "runs" if code == 0 else f"does not run ({word or f'exit {code}'})"
    say(f"{state}: {place.file}{whose}\nwhat it says: {place.log}")
    return code == 0


def refuse_unreadable(service: Service, folders: Sequence[Path]) -> None:
    """Return where all that the service needs is there, and may be read by its user.

    Args:
        service: What is to be installed.
        folders: Of bundles that it reads.

    Raises:
        CommandError: the service would start and fail.
    """
    for path in service.credentials.values():
        if not path.is_file():
            raise CommandError(f"expected a file, found none at {path}")
    for folder in folders:
        if not folder.is_dir():
            raise CommandError(f"expected the folder of a bundle, found none at {folder}")
        if not service.user:
            _refuse_closed(folder)


def refuse_other_bundle(folder: Path, role: Role) -> None:
    """Return where a folder has a bundle for this program.

    Raises:
        BundleError: it has none, or the other program's, with which every start would end.
    """
    from submodels.bundle.bundle import find_bundle, require_role
    from submodels.bundle.manifest_file import read_manifest

    found = find_bundle(folder, role)
    require_role(found, read_manifest(found), role)


def _refuse_closed(folder: Path) -> None:
    for path in (folder, *sorted(folder.rglob("*"))):
        mode = path.stat().st_mode
        wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        if mode & wanted != wanted:
            raise CommandError(
                f"the service has a user of its own, who cannot read {path}: "
                f"chmod -R o+rX {folder}, or install with --user"
            )


def _refuse_foreign(file: Path) -> None:
    if os.path.lexists(file) and not _is_ours(file):
        raise CommandError(f"{file} is not from hat service install, so it stays as it is")


def _is_ours(file: Path) -> bool:
    """A regular file with our mark; a link is somebody's arrangement."""
    if not stat.S_ISREG(file.lstat().st_mode):
        return False
    return MARK in file.read_text(errors="replace")[:2000]


def _write(file: Path, text: str) -> None:
    """Whole or not at all.

    Raises:
        CommandError: it cannot be written; nothing is left of it.
    """
    new = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        new.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise CommandError(f"cannot write {file}: {system_reason(error)}") from error


def _try_all(commands: Sequence[Words], supervisor: Supervisor) -> None:
    for words in commands:
        supervisor(words)
