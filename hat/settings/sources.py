"""Where settings are written: flags, environment variables, and a table of a TOML file."""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic

from hat.settings.programs import C, Program
from hat.settings.secret_files import read_secret, readable_note, usable_secret
from hat.settings.setting import Setting, Value
from process.errors import ConfigError, system_reason

# Kubernetes gives every pod variables for each service of its namespace. A service that is
# called hat-cloud brings HAT_CLOUD_PORT=tcp://10.96.0.7:7700 and the names below
# (kubernetes.io, "Service", section "Environment variables").
_KUBERNETES_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
_KUBERNETES_NAME = re.compile(
    r"_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)


@dataclass(frozen=True, slots=True)
class Sources:
    """What the user gave: flags by setting key, the environment, and a TOML file if any."""

    flags: Mapping[str, str]
    environ: Mapping[str, str]
    file: Path | None = None
    spelled: Mapping[str, str] = field(default_factory=dict)
    """Flags that a command calls differently than the program does."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value and where it came from; a secret from a file also names the file."""

    value: Value
    source: str
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Resolved(Generic[C]):
    """Every setting of a program with the value that won."""

    program: Program[C]
    sources: Sources
    given: Mapping[str, Given]
    notes: tuple[str, ...]
    """What the user should know about how the settings were read."""

    def config(self) -> C:
        """The program's configuration.

        Raises:
            ConfigError: its argument was not given anywhere.
        """
        for setting in self.program.settings:
            if setting.name not in self.given:
                where = f"{setting.name.upper()} (or {setting.variables[0]}"
                raise ConfigError(f"missing {where}, or {setting.key} in --config)")
        return self.program.config(**{name: given.value for name, given in self.given.items()})

    def value(self, name: str) -> Any:
        """The value of one setting."""
        return self.given[name].value


def load(program: Program[C], sources: Sources) -> Resolved[C]:
    """Every setting of `program` with the value that won: flags, environment, file, default.

    A value that is wrong is an error wherever it stands, also where a stronger one overrides it.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, an unreadable file.
    """
    environment, notes = _from_environment(program, sources.environ)
    file = {} if sources.file is None else _from_file(program, sources.file)
    found = file | environment | _from_flags(program, sources)
    given = {
        setting.name: found.get(setting.name, Given(setting.default, "default"))
        for setting in program.settings
        if setting.name in found or not setting.needed
    }
    # The key of a certificate is as secret as what is read here.
    files = [each.value if name == "tls_key" else each.file for name, each in given.items()]
    readable = [readable_note(file) for file in files if isinstance(file, Path)]
    notes += [note for note in readable if note is not None]
    return Resolved(program, sources, given, tuple(notes))


def unheard(resolved: Resolved[Any], environ: Mapping[str, str]) -> dict[Setting, str]:
    """Settings that were given nowhere, and would be by these variables; and which ones."""
    found: dict[Setting, str] = {}
    for setting in resolved.program.settings:
        given = resolved.given.get(setting.name)
        if given is not None and given.source != "default":
            continue
        for variable in (name for each in setting.variables for name in _names_of(setting, each)):
            # What Kubernetes sets for a service of such a name is meant for nobody.
            if environ.get(variable) and not _KUBERNETES_ADDRESS.fullmatch(environ[variable]):
                found.setdefault(setting, variable)
    return found


def _names_of(setting: Setting, variable: str) -> list[str]:
    """A secret is a variable's value, or lies in the file that another one names."""
    return [variable, f"{variable}_FILE"] if setting.about.secret else [variable]


def _from_flags(program: Program[C], sources: Sources) -> dict[str, Given]:
    given = {}
    for setting in program.settings:
        if (text := sources.flags.get(setting.key)) is not None:
            flag = sources.spelled.get(setting.key, setting.flag)
            source = "argument" if setting.about.argument else flag
            given[setting.name] = _given(setting, partial(setting.from_text, text), source)
    return given


def _from_environment(
    program: Program[C], environ: Mapping[str, str]
) -> tuple[dict[str, Given], list[str]]:
    given: dict[str, Given] = {}
    known: set[str] = set()
    notes: list[str] = []
    for setting in program.settings:
        for variable in setting.variables:
            names = _names_of(setting, variable)
            known.update(names)
            present = [name for name in names if environ.get(name)]
            if len(present) > 1:
                raise ConfigError(f"{present[0]} and {present[1]} are both set; keep one")
            if not present or setting.name in given:
                continue
            [name] = present
            text = environ[name]
            if setting.name.endswith("port") and _KUBERNETES_ADDRESS.fullmatch(text):
                service = name.removesuffix("_PORT").lower().replace("_", "-")
                notes.append(
                    f"ignoring {name}={text}: Kubernetes sets it for a service called "
                    f"{service}. Use {setting.flag}, a TOML file, or another service name"
                )
            elif setting.about.secret and name == variable:
                given[setting.name] = Given(usable_secret(text, name), name)
            else:
                given[setting.name] = _given(setting, partial(setting.from_text, text), name)
    _refuse_unknown_variables(program, environ, known)
    return given, notes


def _refuse_unknown_variables(
    program: Program[C], environ: Mapping[str, str], known: set[str]
) -> None:
    for name in sorted(environ):
        if not name.startswith(program.prefix) or name in known or not environ[name]:
            continue
        if _KUBERNETES_NAME.search(name) or _KUBERNETES_ADDRESS.fullmatch(environ[name]):
            continue
        raise ConfigError(f"unknown environment variable {name}{_closest(name, known)}")


def _from_file(program: Program[C], path: Path) -> dict[str, Given]:
    keys = {setting.key: setting for setting in program.settings}
    table, folder = f"{path} [{program.name}]", path.absolute().parent
    given = {}
    for key, raw in _table(program, path).items():
        if key not in keys:
            raise ConfigError(f"{table}: unknown key {key}{_closest(key, keys)}")
        setting = keys[key]
        parse = partial(setting.from_toml, raw, folder)
        given[setting.name] = _given(setting, parse, table, f" {key}")
    return given


def _table(program: Program[C], path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {system_reason(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for name, table in tables.items():
        if name not in ("cloud", "device"):
            hint = _closest(name, ("cloud", "device")) or "; expected [cloud] and [device]"
            raise ConfigError(f"{path}: unknown table or key {name}{hint}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: expected a table [{name}], got {name} = {table!r}")
    return dict(tables.get(program.name, {}))


def _given(setting: Setting, parse: Callable[[], Value], source: str, place: str = "") -> Given:
    """What `parse` makes of a source, and of a place in it; a secret is read from its file."""
    try:
        value = setting.validated(parse())
    except ValueError as error:
        raise ConfigError(f"{source}{place}: {error}") from error
    if setting.about.secret:
        assert isinstance(value, Path)
        return Given(read_secret(value, source + place), source, value)
    return Given(value, source)


def _closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no known name is near."""
    names = list(known)
    longer = [each for each in names if each.startswith(f"{name}_")]
    near = longer[:1] or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
