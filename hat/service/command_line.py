"""From settings that somebody gave to a service: they are read now, and stand in its file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hat.service.description import CREDENTIALS, Role, Service
from hat.settings.programs import C
from hat.settings.setting import Setting, Value
from hat.settings.sources import Given, Resolved
from process.errors import ConfigError

HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))
"""What a system service does not see unless it is shown: others' files."""

_STATE = Path("/var/lib")
_KEPT = "kept_sessions_folder"
"""The one setting that names a folder which the program writes to."""
OWN_FOLDER = (_KEPT, "tokens_file")
"""Settings that name what a system service has in its own folder: it writes it, or reads it again
while it runs, which it could not with a copy."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where this program lies."""

    python: Path
    """The interpreter of the environment that hat is installed in."""

    folders: tuple[Path, ...]
    """What the interpreter reads: the environment, Python itself, and the packages' folder."""


def service_of(
    resolved: Resolved[C], role: Role, installation: Installation, *, user: bool, accelerator: bool
) -> Service:
    """The service that runs the program with these settings, whoever starts it and wherever.

    Settings from flags and from a TOML file become flags of the service, paths absolute. Files
    become copies that the supervisor hands over where the service has a user of its own.

    Raises:
        ConfigError: a secret that lies in no file, or a folder that the service cannot have.
    """
    words = [str(installation.python), "-I", "-m", "hat", role]
    credentials: dict[str, Path] = {}
    seen: list[Path] = list(installation.folders)
    writable: list[Path] = []
    for setting, given in _given(resolved):
        path = _path_of(setting, given)
        if path is None:
            words += _words(setting, given.value)
            continue
        shown = str(path)
        if setting.name in OWN_FOLDER:
            _refuse_elsewhere(setting, path, role, user)
            writable += [path] if user and setting.name == _KEPT else []
        elif user or setting.about.argument or path.is_dir():
            seen.append(path)
        else:
            credentials[setting.name] = path
            shown = f"{CREDENTIALS}/{setting.name}"
        words += [shown] if setting.about.argument else [setting.flag, shown]
    hidden = () if user else tuple(dict.fromkeys(path for path in seen if _is_hidden(path)))
    return Service(role, tuple(words), user, accelerator, credentials, hidden, tuple(writable))


def _given(resolved: Resolved[C]) -> Iterator[tuple[Setting, Given]]:
    """What is not left to the defaults."""
    for setting in resolved.program.settings:
        given = resolved.given.get(setting.name)
        if given is not None and given.source != "default":
            yield setting, given


def _path_of(setting: Setting, given: Given) -> Path | None:
    if setting.about.secret:
        if given.file is None:
            raise ConfigError(
                f"{given.source}: a service takes a secret from a file, for {setting.flag}"
            )
        return given.file.absolute()
    return given.value.absolute() if isinstance(given.value, Path) else None


def _words(setting: Setting, value: Value) -> list[str]:
    """A flag with its value, in the form that the program reads."""
    if value is True:
        return [setting.flag]
    if value is False:
        # Said in a file, and what the program does without the flag.
        return []
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return [text] if setting.about.argument else [setting.flag, text]


def _refuse_elsewhere(setting: Setting, path: Path, role: Role, user: bool) -> None:
    own = _STATE / f"hat-{role}"
    if not user and own not in path.parents:
        raise ConfigError(
            f"{setting.flag}: expected a place below {own}, the service's own folder, got {path}"
        )


def _is_hidden(path: Path) -> bool:
    return any(folder in path.parents for folder in HIDDEN)
