"""How the user called this program, so that printed commands work when pasted."""

import shlex
import shutil
import sys
from pathlib import Path


def command_line(*arguments: str | Path) -> str:
    """`hat` with these arguments, as this user can call it from this folder."""
    return shlex.join([*_program(), *(str(argument) for argument in arguments)])


def _program() -> list[str]:
    if Path(sys.argv[0]).name == "hat":
        return [_shortest(sys.argv[0])]
    return [_shortest(sys.executable), "-m", "hat"]


def _shortest(program: str) -> str:
    """The program's name, if that is enough for a shell to find this very file."""
    found = shutil.which(Path(program).name)
    is_same = found is not None and Path(found).absolute() == Path(program).absolute()
    return Path(program).name if is_same else program
