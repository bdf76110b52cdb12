"""Where settings are written: flags, environment variables, and a table of a TOML file."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hat.errors import ConfigError
from hat.settings.secret_files import read_secret, readable_note, usable_secret
from hat.settings.tables import C, Given, Program, Resolved, Setting, closest, resolve
from hat.settings.values import ValueType, from_text, from_toml

# Kubernetes gives every pod variables for each service of its namespace. A service that is
# called hat-cloud brings HAT_CLOUD_PORT=tcp://10.96.0.7:7700 and the names below
# (kubernetes.io, "Service", section "Environment variables").
_KUBERNETES_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
_KUBERNETES_NAME = re.compile(
    r"_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)

_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sources:
    """What the user gave: flags by setting key, the environment, and a TOML file if any.

    `spelled` has the flags that a command calls differently than the program does.
    """

    flags: Mapping[str, str]
    environ: Mapping[str, str]
    file: Path | None = None
    spelled: Mapping[str, str] = field(default_factory=dict)


def load(program: Program[C], sources: Sources) -> Resolved[C]:
    """Every setting of `program` with the value that won: flags, environment, file, default.

    A value that is wrong is an error wherever it stands, also where a stronger one overrides it.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, an unreadable file.
    """
    environment, notes = _from_environment(program, sources.environ)
    file = {} if sources.file is None else _from_file(program, sources.file)
    resolved = resolve(program, [_from_flags(program, sources), environment, file])
    files = [given.file for given in resolved.given.values() if given.file is not None]
    key = resolved.given.get("tls_key")
    if key is not None and isinstance(key.value, Path):
        files.append(key.value)
    readable = [note for note in map(readable_note, files) if note is not None]
    return replace(resolved, notes=(*notes, *readable))


def _from_flags(program: Program[C], sources: Sources) -> dict[str, Given]:
    given = {}
    for setting in program.settings:
        text = sources.flags.get(setting.key)
        if text is not None:
            flag = sources.spelled.get(setting.key, setting.flag)
            source = "argument" if setting.about.argument else flag
            given[setting.name] = _given_text(setting, text, source)
    return given


def _from_environment(
    program: Program[C], environ: Mapping[str, str]
) -> tuple[dict[str, Given], tuple[str, ...]]:
    given: dict[str, Given] = {}
    known: set[str] = set()
    notes = []
    for setting in program.settings:
        for variable in program.variables(setting):
            names = [variable, f"{variable}_FILE"] if setting.about.secret else [variable]
            known.update(names)
            present = [name for name in names if environ.get(name)]
            if len(present) > 1:
                raise ConfigError(f"{present[0]} and {present[1]} are both set; keep one")
            if not present or setting.name in given:
                continue
            text = environ[present[0]]
            if setting.name == "port" and _KUBERNETES_ADDRESS.fullmatch(text):
                notes.append(_kubernetes_note(program, present[0], text))
            elif setting.about.secret and present[0] == variable:
                given[setting.name] = Given(usable_secret(text, variable), variable)
            else:
                given[setting.name] = _given_text(setting, text, present[0])
    _refuse_unknown_variables(program, environ, known)
    return given, tuple(notes)


def _refuse_unknown_variables(
    program: Program[C], environ: Mapping[str, str], known: set[str]
) -> None:
    for name in sorted(environ):
        if not name.startswith(program.prefix) or name in known or not environ[name]:
            continue
        if _KUBERNETES_NAME.search(name) or _KUBERNETES_ADDRESS.fullmatch(environ[name]):
            continue
        raise ConfigError(f"unknown environment variable {name}{closest(name, known)}")


def _kubernetes_note(program: Program[C], name: str, text: str) -> str:
    return (
        f"ignoring {name}={text}: Kubernetes sets it for a service called hat-{program.name}. "
        "Use --port, a TOML file, or another service name"
    )


def _from_file(program: Program[C], path: Path) -> dict[str, Given]:
    table = _table(program, path)
    keys = {setting.key: setting for setting in program.settings}
    given = {}
    for key, value in table.items():
        setting = keys.get(key)
        where = f"{path} [{program.name}]"
        if setting is None:
            raise ConfigError(f"{where}: unknown key {key}{closest(key, keys)}")
        given[setting.name] = _given_toml(setting, value, where, path.absolute().parent)
    return given


def _table(program: Program[C], path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"--config {path} is larger than {_MAX_FILE_BYTES} bytes")
    try:
        tables = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for name, table in tables.items():
        if name not in ("cloud", "device"):
            hint = closest(name, ("cloud", "device")) or "; expected [cloud] and [device]"
            raise ConfigError(f"{path}: unknown table or key {name}{hint}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: expected a table [{name}], got {name} = {table!r}")
    return dict(tables.get(program.name, {}))


def _given_text(setting: Setting, text: str, source: str) -> Given:
    if setting.about.secret:
        path = Path(text).expanduser()
        return Given(read_secret(path, source), source, path)
    try:
        value = from_text(text, setting.kind, tokens=setting.about.tokens)
        return Given(setting.validated(value), source)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def _given_toml(setting: Setting, raw: object, table: str, folder: Path) -> Given:
    source = f"{table} {setting.key}"
    try:
        if setting.about.secret:
            path = Path(str(from_toml(raw, ValueType(Path), folder)))
            return Given(read_secret(path, source), table, path)
        value = from_toml(raw, setting.kind, folder, tokens=setting.about.tokens)
        return Given(setting.validated(value), table)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
