"""A cloud bundle of the model in the repository, and an engine without weights to serve it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_server.config import CloudConfig
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.split import SplitOptions, split_checkpoint
from tests.support.fake_middle_engine import FakeMiddleEngine

_MODEL = Path(__file__).parents[2] / "models" / "stories260k"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles with one input layer, without ONNX files."""
    out = tmp_path_factory.mktemp("bundle")
    split_checkpoint(SplitOptions(str(_MODEL), out, 1, onnx_weights=()))
    return out


@pytest.fixture(scope="session")
def bundle(folder: Path) -> Bundle:
    """The cloud's part of it."""
    return load_bundle(folder, "cloud")


@pytest.fixture
def config(folder: Path) -> CloudConfig:
    """A cloud on a free port."""
    return CloudConfig(folder, port=0, threads=1, session_ttl_s=30.0)


@pytest.fixture
def engine() -> Iterator[FakeMiddleEngine]:
    """An engine that a test can make fail or wait; in the end it waits no more."""
    engine = FakeMiddleEngine()
    yield engine
    engine.may_step.set()
