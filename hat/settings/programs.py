"""`hat cloud` and `hat device` as a user meets them: a setting for each field of their configs."""

import dataclasses
import math
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar, get_type_hints

from cloud_server.config import CloudConfig
from device_runtime.config import DeviceConfig
from hat.settings.values import Value, ValueType, value_type
from process.program.about import About, abouts

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config dataclass as a user meets it."""

    name: str
    kind: ValueType
    """Of what a user gives: for a secret that is the path of a file."""
    default: Value
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
        if about.check is not None and (expected := about.check(value)) is not None:
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


def _program(name: str, config: type[C]) -> Program[C]:
    hints, said = get_type_hints(config), abouts(config)
    settings = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        about = said[field.name]
        kind = value_type(Path if about.secret else hints[field.name], tokens=about.tokens)
        default = None if field.default is MISSING else field.default
        settings.append(Setting(field.name, kind, default, about))
    return Program(name, config, tuple(settings))


CLOUD: Final = _program("cloud", CloudConfig)
DEVICE: Final = _program("device", DeviceConfig)
