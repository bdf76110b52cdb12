"""The register of names as a file: read while a cloud runs, and changed by `hat token`."""

import contextlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cloud_server.core.names.tokens import Tokens, TokensError, from_text, to_text
from process.errors import StartError, UserError, system_reason

_log = logging.getLogger(__name__)

_MAX_BYTES = 16 << 20
"""Of some 50,000 names; a file that is longer is none of ours."""

_Version = tuple[int, int, int]
"""When a file was changed, how long it is, and which one."""


class UnreadableError(UserError):
    """The system does not let the file be read now; that may pass while the file stays the same."""


def default_tokens_file(environ: Mapping[str, str]) -> Path | None:
    """Where it lies if nobody says; None where there is no home."""
    folder = environ.get("XDG_CONFIG_HOME") or ""
    if os.path.isabs(folder):
        return Path(folder) / "hat" / "tokens.json"
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".config" / "hat" / "tokens.json"
    return None


def read_tokens(path: Path) -> Tokens:
    """The register of a file.

    Raises:
        UnreadableError: it cannot be read.
        UserError: it is none; the message is for users.
        FileNotFoundError: there is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(f"cannot read {path}: {system_reason(error)}") from error
    if len(data) > _MAX_BYTES:
        raise UserError(f"{path}: expected at most {_MAX_BYTES} bytes")
    try:
        return from_text(data.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8") from error
    except TokensError as error:
        raise UserError(f"{path}: {error}") from error


def write_tokens(path: Path, tokens: Tokens) -> None:
    """Replace a file as a whole, so that a reader sees the old register or the new one.

    Its owner alone may read it (mode 0600): whoever writes it, or where that is root the owner of
    its folder, which may be a service with a user of its own.

    Raises:
        UserError: it cannot be written.
    """
    data = to_text(tokens).encode()
    try:
        owner = _other_owner(path)
        # What is a link stays one.
        path = path.resolve()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            if owner is not None:
                os.fchown(handle, *owner)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {system_reason(error)}") from error


def _other_owner(path: Path) -> tuple[int, int] | None:
    """User and group of a file's folder, where root writes into somebody else's.

    Raises:
        UserError: that somebody has put a link in the file's place, which could lead anywhere.
    """
    if os.geteuid() != 0 or not path.parent.is_dir():
        return None
    folder = path.parent.resolve()
    status = folder.stat()
    if status.st_uid == 0:
        return None
    if (folder / path.name).is_symlink():
        raise UserError(f"{path} is a link in a folder of user {status.st_uid}: root follows none")
    return status.st_uid, status.st_gid


@contextlib.contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """While others who would change the same file wait.

    Raises:
        UserError: its folder cannot be had.
    """
    import fcntl

    folder = path.resolve().parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot use {folder}: {system_reason(error)}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class TokenFile:
    """The register of a running cloud, read again whenever its file has changed.

    A file that cannot be read, or is none, changes nothing: the names that were known stay, or
    nobody's where there were none. One that cannot be read is tried again each time, since it may
    hold a revocation. One that is gone leaves nobody who could come with a token.
    """

    def __init__(self, path: Path, is_needed: bool) -> None:
        self._path = path
        self._is_needed = is_needed
        self._version: _Version | None = None
        self._tokens: Tokens | None = None
        self._said: str | None = None
        """What is wrong with it, and was said."""

    @property
    def has_names(self) -> bool:
        """Whether there is a register, so that devices are asked for tokens."""
        return self._tokens is not None

    def start(self) -> None:
        """Read it for the first time.

        Raises:
            StartError: it cannot be used, or is needed and not there.
        """
        try:
            self._version = self._look()
            self._tokens = None if self._version is None else read_tokens(self._path)
        except (UserError, OSError) as error:
            raise StartError(f"the tokens file: {error}") from error
        if self._tokens is None and self._is_needed:
            advice = f"`hat token add NAME --tokens-file {self._path}` makes it"
            raise StartError(f"the tokens file: no file {self._path}; {advice}")
        if self._tokens is not None:
            _log.info("names that may come: %d, of %s", len(self._tokens.entries), self._path)
            self._warn_of_writers()

    def read(self) -> Tokens | None:
        """The register as it is now, the same value while nothing has changed; None: there was
        never one."""
        version = self._version
        try:
            version = self._look()
            if version == self._version:
                return self._tokens
            tokens = Tokens() if version is None else read_tokens(self._path)
        except (UnreadableError, OSError) as error:
            return self._kept(error)
        except UserError as error:
            self._version = version
            return self._kept(error)
        self._version, self._said = version, None
        if version is None:
            _log.error("the tokens file %s is gone: nobody's token lets him in", self._path)
        else:
            _log.info("the tokens file was read again; names in it: %d", len(tokens.entries))
        self._tokens = tokens
        return tokens

    def _kept(self, error: Exception) -> Tokens:
        """The names that were known, when the file cannot be used; why is said once."""
        if str(error) != self._said:
            self._said = str(error)
            _log.error("the tokens file is not used, names stay as they were: %s", error)
        # Whoever has put it there wants tokens to be asked for.
        self._tokens = Tokens() if self._tokens is None else self._tokens
        return self._tokens

    def _warn_of_writers(self) -> None:
        """Whoever may write the file may let himself in; on Windows modes say nothing of that."""
        mode = self._path.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
            _log.warning("%s can be written by others: chmod 600 %s", self._path, self._path)

    def _look(self) -> _Version | None:
        try:
            status = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            # Nobody has named the usual one, which may lie in a home that is not for this program.
            # Whoever has made a folder for it there wants tokens to be asked for.
            is_wanted = self._is_needed or os.path.isdir(self._path.parent)
            if is_wanted or self._tokens is not None:
                reason = system_reason(error)
                raise UnreadableError(f"cannot look at {self._path}: {reason}") from error
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
