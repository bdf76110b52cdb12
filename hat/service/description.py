"""A service as its supervisor is told of it: a command line, and what it may read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Role = Literal["cloud", "device"]

MARK = "Written by `hat service install`; `hat service uninstall` removes it."
"""In every file of ours. A file without it is somebody else's and is left alone."""

CREDENTIALS = "${CREDENTIALS_DIRECTORY}"
"""The folder that systemd puts a service's own copies of secret files in, as units write it."""


SUPERVISOR_VARIABLE = "HAT_SUPERVISOR"
"""Says which supervisor has started a program that has to be told of failures in its own way."""

LAUNCHD = "launchd"


@dataclass(frozen=True, slots=True)
class Service:
    """One program that a supervisor keeps running. All paths are absolute."""

    role: Role
    """Which program."""

    command: tuple[str, ...]
    """The program and all its arguments, a word each; `CREDENTIALS` may stand in one."""

    user: bool
    """Whether it belongs to the user who installs it, and not to the system."""

    accelerator: bool = False
    """Whether it may open GPUs and the like."""

    credentials: Mapping[str, Path] = field(default_factory=dict)
    """Files that the supervisor reads and hands over as copies, by the copies' names."""

    read_only: tuple[Path, ...] = ()
    """What it reads that lies in a folder otherwise hidden from it."""

    writable: tuple[Path, ...] = ()
    """Folders of its user that it may write to."""

    @property
    def name(self) -> str:
        """What its supervisor calls it."""
        return f"hat-{self.role}"
