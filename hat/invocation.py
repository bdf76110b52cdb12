"""How the user called this program, so that printed commands work when pasted."""

import shlex
import shutil
import sys
from pathlib import Path


def command_line(*arguments: str | Path) -> str:
    """`hat` with these arguments, as this user can call it from this folder."""
    return shlex.join([*_program(), *(str(argument) for argument in arguments)])


def _program() -> list[str]:
    called = Path(sys.argv[0])
    if called.name != "hat":
        return [Path(sys.executable).name, "-m", "hat"]
    found = shutil.which("hat")
    return ["hat"] if found and Path(found).resolve() == called.resolve() else [sys.argv[0]]
