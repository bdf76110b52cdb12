"""What vLLM leaves behind goes with the engine."""

import tempfile
from pathlib import Path

import pytest

from cloud_server.engines.vllm.exchange import scratch


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(scratch, "SHARED_MEMORY", memory)
    scratch._folder.cache_clear()
    yield
    scratch._folder.cache_clear()


def test_one_engine_after_another_has_the_same_folder_and_leaves_nothing(tmp_path):
    first = scratch.sockets_folder()
    assert first.stat().st_mode & 0o777 == 0o700
    with scratch.files_in(first):
        rendezvous = Path(tempfile.gettempdir(), "vllm_dist_1")
    assert rendezvous.parent == first
    assert tempfile.gettempdir() == str(tmp_path)
    rendezvous.touch()
    for name in ("vllm_dist_1-tp:0-cpushm_0", "vllm_dist_12-tp:0-cpushm_0", "other"):
        (tmp_path / "memory" / name).touch()
    scratch.clear()
    assert not first.exists()
    left = sorted(path.name for path in (tmp_path / "memory").iterdir())
    assert left == ["other", "vllm_dist_12-tp:0-cpushm_0"], "those are others'"
    assert scratch.sockets_folder() == first
    assert first.is_dir()


def test_temporary_files_go_back_to_their_place_after_a_failure(tmp_path):
    with pytest.raises(ValueError, match="planted"), scratch.files_in(tmp_path / "x"):
        raise ValueError("planted")
    assert tempfile.gettempdir() == str(tmp_path)
