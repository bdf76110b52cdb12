"""`hat adapter train` killed with SIGKILL wherever it is ends with the same adapter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters.data.conversations import CONVERSATIONS_FILE
from adapters.data.features import FEATURES_KEY_FILE
from adapters.storage import WEIGHTS_FILE
from adapters.writing.run import STATE_FILE
from submodels.random_models import RandomModel
from tests.support.adapter_models import make_bundles

pytestmark = pytest.mark.slow

MODEL = RandomModel(hidden_size=32, intermediate_size=48, max_context_tokens=256)
_PATIENCE_S = 120.0


def command(bundle: Path, work: Path) -> list[str]:
    counts = ["--conversations", "300", "--answer-tokens", "12", "--steps", "30"]
    how = ["--kind", "fed", "--number-format", "float32", "--force", "--work", str(work)]
    return [sys.executable, "-m", "hat", "adapter", "train", str(bundle), *counts, *how]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def killed_when_there(arguments: list[str], path: Path) -> None:
    """Start the command, and kill it as soon as a file is there."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(arguments, env=environment(), stdout=quiet, stderr=quiet) as process:
        ends_s = time.monotonic() + _PATIENCE_S
        while not path.exists() and time.monotonic() < ends_s and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert path.exists()


def test_a_training_killed_at_every_stage_ends_with_the_same_adapter(tmp_path: Path) -> None:
    bundle = make_bundles(tmp_path, model=MODEL)[0].parent
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(bundle, whole), env=environment(), check=True, capture_output=True)
    # While it writes the first group, the second, and when it has read what it wrote.
    for file in (STATE_FILE, CONVERSATIONS_FILE, FEATURES_KEY_FILE):
        killed_when_there(command(bundle, cut), cut / file)
    subprocess.run(command(bundle, cut), env=environment(), check=True, capture_output=True)
    for file in (CONVERSATIONS_FILE, f"adapter/{WEIGHTS_FILE}", "adapter/curve.svg"):
        if (whole / file).exists():
            assert (cut / file).read_bytes() == (whole / file).read_bytes()
    assert (whole / "adapter" / WEIGHTS_FILE).exists()
