"""The packages that hat is made of come from hat's own folder, whoever else uses their names.

`adapters`, `bench`, `process` and `wire` are names that other projects have as well
(docs/decisions/0011-import-names.md). Nothing that takes time is imported here.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOMS = (
    "wire",
    "chunking",
    "process",
    "submodels",
    "adapters",
    "device_runtime",
    "cloud_server",
    "bench",
)
"""The top-level packages of this project beside `hat`."""

_WRONG_PLACE = 2


@dataclass(frozen=True, slots=True)
class ForeignRoom:
    """A package that Python would import from elsewhere."""

    name: str

    found: Path
    """Where Python finds it."""

    own: Path
    """Where hat's own is."""


def foreign_rooms() -> Iterator[ForeignRoom]:
    """The rooms that would not be hat's own; none of them is imported to find out."""
    folder = Path(__file__).resolve().parents[1]
    for name in ROOMS:
        spec = find_spec(name)
        if spec is None:
            continue
        # The first folder of a package, or the file of a module.
        place = next(iter(spec.submodule_search_locations or ()), spec.origin)
        if place is not None and Path(place).resolve() != folder / name:
            yield ForeignRoom(name, Path(place).resolve(), folder / name)


def leave_if_foreign() -> None:
    """End this process, with one line for each, where a room is not hat's own."""
    lines = [
        f"hat: Python finds another project's package {room.name}: it would import {room.found}, "
        f"and hat's own is {room.own}. Two projects use this name: install hat in an environment "
        f"of its own, or take {room.found.parent} out of PYTHONPATH and start elsewhere."
        for room in foreign_rooms()
    ]
    if lines:
        print(*lines, sep="\n", file=sys.stderr)
        sys.exit(_WRONG_PLACE)
