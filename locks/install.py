#!/usr/bin/env python3
"""Install what a lock file lists, and nothing else: `python locks/install.py development`.

Every file that comes has one of the hashes in the lock; what has none, or wants to be built, is
refused. Needs only the standard library and pip. Where TORCH_FLAGS or TORCH of the environment
want another torch than the lock's, that one comes without a hash (`docs/running.md`).
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
TORCH = "torch"
CPU = "torch-cpu"
CUDA = "torch-cuda"
LOCKED = ("--no-deps", "--only-binary=:all:", "--require-hashes")

# Whether the torch that is installed wants what the second lock lists: its build for CPUs does not.
_WANTS_CUDA = """
import importlib.metadata, sys
from pathlib import Path
listed = set(sys.argv[1].split(","))
wanted = {"".join(c for c in line.split(";")[0] if c.isalnum() or c in "-_.").lower()
          for line in importlib.metadata.requires("torch") or []}
sys.exit(0 if any(want.startswith(name) for want in wanted for name in listed) else 3)
"""


def main() -> int:
    """Install the named locks, in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="locks/NAME.txt")
    parser.add_argument("--python", default=sys.executable, help="of the environment to fill")
    parser.add_argument("--target", help="a folder to fill instead of the environment")
    arguments = parser.parse_args()
    pip = [sys.executable, "-m", "pip", "--python", arguments.python, "install", "-q"]
    pip += ["--disable-pip-version-check"]
    if arguments.target:
        pip += ["--upgrade", "--target", arguments.target]
    unlocked = other_torch(os.environ)
    for name in arguments.names:
        if name != TORCH:
            run([*pip, *locked(name)])
        elif unlocked:
            print(f"torch without a hash: {shlex.join(unlocked)}", file=sys.stderr)
            run([*pip, *unlocked])
        else:
            install_torch(pip, arguments.python)
    return 0


def locked(name: str) -> list[str]:
    """What pip is told of one lock."""
    return [*LOCKED, "-r", str(LOCKS / f"{name}.txt")]


def install_torch(pip: list[str], python: str) -> None:
    """The build for CPUs where pip's sources have it, else the index's and what that asks for.

    Of two files with right hashes pip would take the one whose hash its source has told, so the
    builds are tried one after the other.
    """
    tried = subprocess.run([*pip, *locked(CPU)], check=False, capture_output=True)
    if tried.returncode != 0:
        run([*pip, *locked(TORCH)])
    if wants_cuda(python):
        run([*pip, *locked(CUDA)])


def other_torch(environ: Mapping[str, str]) -> list[str]:
    """What pip is told where another torch is wanted than the lock's; nothing where none is."""
    flags = shlex.split(environ.get("TORCH_FLAGS", ""))
    locked = re.search(r"(?m)^torch==[\w.]+", (LOCKS / f"{TORCH}.txt").read_text())[0]
    wanted = environ.get("TORCH") or locked
    return [*flags, wanted] if flags or wanted != locked else []


def wants_cuda(python: str) -> bool:
    """Whether the torch that is installed there asks for NVIDIA's libraries."""
    names = re.findall(r"(?m)^([\w.-]+)(?:\[[^\]]*\])?==", (LOCKS / f"{CUDA}.txt").read_text())
    asked = subprocess.run([python, "-c", _WANTS_CUDA, ",".join(names)], check=False)
    if asked.returncode not in (0, 3):
        sys.exit("cannot read what torch asks for")
    return asked.returncode == 0


def run(command: list[str]) -> None:
    """Run pip; where it fails, so does this program."""
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
