"""`hat cloud` and `hat device` as a user meets them: a setting for each field of their configs."""

import dataclasses
import types
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Final, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cloud_server.config import CloudConfig
from device_runtime.config import DeviceConfig
from hat.settings.setting import TYPES, Setting
from process.program.about import abouts

C = TypeVar("C")


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

    def setting(self, name: str) -> Setting:
        """The setting of this name."""
        return next(setting for setting in self.settings if setting.name == name)


def _program(name: str, config: type[C]) -> Program[C]:
    hints, said = get_type_hints(config), abouts(config)
    settings = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        about = said[field.name]
        base, choices = _type_of(Path if about.secret else hints[field.name])
        default = None if field.default is MISSING else field.default
        own = f"HAT_{name}_{field.name}".upper()
        variables = (own,) if about.shared_variable is None else (own, about.shared_variable)
        needed = field.default is MISSING
        settings.append(Setting(field.name, base, choices, default, variables, about, needed))
    return Program(name, config, tuple(settings))


def _type_of(annotation: object) -> tuple[type, tuple[str, ...]]:
    """What an annotation allows: a type, and of texts the only ones; `None` may stand beside it.

    Raises:
        TypeError: an annotation that no flag can fill.
    """
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        if len(members) == 1:
            return _type_of(members[0])
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    base = tuple if annotation == tuple[str, ...] else annotation
    if isinstance(base, type) and base in TYPES and annotation is not tuple:
        return base, ()
    raise TypeError(f"expected a setting of a plain type, got {annotation}")


CLOUD: Final = _program("cloud", CloudConfig)
DEVICE: Final = _program("device", DeviceConfig)
