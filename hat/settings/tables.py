"""Settings with their sources: flags > environment > TOML file > the dataclass's defaults."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from hat.errors import ConfigError
from hat.settings.values import Value, ValueType, value_type

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class About:
    """What a config dataclass does not say about a field.

    `minimum` and `maximum` are inclusive. `tokens` counts may be written 32k. A `secret` is never
    a value on the command line; `shared_variable` is its name for all programs. `metavar` stands
    behind the flag in the help. `check` returns what a value should have been, or None. `auto` says
    what that value leads to, for --print-config.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    tokens: bool = False
    secret: bool = False
    shared_variable: str | None = None
    argument: bool = False
    metavar: str | None = None
    check: Callable[[Any], str | None] | None = None
    auto: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config dataclass as a user meets it."""

    name: str
    kind: ValueType
    default: Value
    required: bool
    about: About

    @property
    def key(self) -> str:
        """Its name in a TOML table; secrets are files there."""
        return f"{self.name}_file" if self.about.secret else self.name

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.key.replace("_", "-")

    def validated(self, value: Value) -> Value:
        """The value itself.

        Raises:
            ValueError: it is out of range.
        """
        about = self.about
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError(f"expected a finite number, got {value}")
            if about.minimum is not None and value < about.minimum:
                raise ValueError(f"expected at least {about.minimum:g}, got {value}")
            if about.maximum is not None and value > about.maximum:
                raise ValueError(f"expected at most {about.maximum:g}, got {value}")
        expected = about.check(value) if about.check else None
        if expected is not None:
            raise ValueError(f"expected {expected}, got {value!r}")
        return value


@dataclass(frozen=True, slots=True)
class Program(Generic[C]):
    """A program with settings: its name is its TOML table and part of its variables."""

    name: str
    config: type[C]
    settings: tuple[Setting, ...]

    @property
    def prefix(self) -> str:
        """What the names of its environment variables begin with."""
        return f"HAT_{self.name.upper()}_"

    def variables(self, setting: Setting) -> tuple[str, ...]:
        """The environment variables that hold this setting's value, the most specific first."""
        own = self.prefix + setting.name.upper()
        shared = setting.about.shared_variable
        return (own,) if shared is None else (own, shared)

    def setting(self, name: str) -> Setting:
        """The setting of this name."""
        return next(setting for setting in self.settings if setting.name == name)


@dataclass(frozen=True, slots=True)
class Given:
    """A value and where it came from; a secret from a file also names the file."""

    value: Value
    source: str
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Resolved(Generic[C]):
    """Every setting of a program with the value that won, and notes for the user."""

    program: Program[C]
    given: Mapping[str, Given]
    notes: tuple[str, ...] = ()

    def config(self) -> C:
        """The program's configuration.

        Raises:
            ConfigError: a required setting was not given anywhere.
        """
        for setting in self.program.settings:
            if setting.required and setting.name not in self.given:
                where = setting.name.upper() if setting.about.argument else setting.flag
                variable = self.program.variables(setting)[0]
                raise ConfigError(f"missing {where} (or {variable}, or {setting.key} in --config)")
        return self.program.config(**{name: given.value for name, given in self.given.items()})

    def value(self, name: str) -> Any:
        """The value of one setting."""
        return self.given[name].value


def program(name: str, config: type[C], about: Mapping[str, About]) -> Program[C]:
    """The settings of a config dataclass, in its order.

    Raises:
        TypeError: `about` and the dataclass do not name the same fields.
    """
    fields = dataclasses.fields(config)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    if set(names) != set(about):
        raise TypeError(f"settings of {name}: {sorted(set(names) ^ set(about))} only on one side")
    hints = get_type_hints(config)
    return Program(
        name,
        config,
        tuple(
            Setting(
                field.name,
                value_type(hints[field.name]),
                None if field.default is MISSING else field.default,
                field.default is MISSING,
                about[field.name],
            )
            for field in fields
        ),
    )


def resolve(program: Program[C], layers: Iterable[Mapping[str, Given]]) -> Resolved[C]:
    """Each setting's value from the first of `layers` that has one, else its default."""
    given = {
        setting.name: Given(setting.default, "default")
        for setting in program.settings
        if not setting.required
    }
    for layer in reversed(list(layers)):
        given |= layer
    order = [setting.name for setting in program.settings if setting.name in given]
    return Resolved(program, {name: given[name] for name in order})


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
