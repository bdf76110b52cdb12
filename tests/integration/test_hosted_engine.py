"""An engine in a process of its own: what it loads and raises, and how either process ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloud_server.config import CloudConfig
from cloud_server.engines.chosen import load_chosen_engine, loader_for
from cloud_server.engines.engine import EngineFullError, EngineLostError, SequenceId, StepItem
from cloud_server.engines.hosting.calls import Start
from cloud_server.engines.hosting.process import load_in_own_process
from cloud_server.engines.loading import EngineLoader, LoadedEngine
from device_runtime.generation.request import GenerationRequest
from process.errors import PassingError, StartError
from submodels.bundle.bundle import load_bundle
from tests.support.cloud_client import http_get
from tests.support.hosted import load_echo, load_killed, load_refused, load_where
from tests.support.reference import STORIES, story_prompts
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    generate_ids,
    split_for_serving,
)
from tests.support.world import serve_cloud
from wire.messages import Want

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("stories"), 1)


@contextlib.contextmanager
def _loaded(bundles: Path, load: EngineLoader) -> Iterator[LoadedEngine]:
    loaded = load_in_own_process(
        Start(load, load_bundle(bundles, "cloud"), CloudConfig(bundles / "cloud"))
    )
    try:
        yield loaded
    finally:
        loaded.close()


def _is_alive(pid: int) -> bool:
    """Whether there is such a process, and not just the memory of it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _ends_soon(pid: int) -> bool:
    deadline_s = time.monotonic() + 10
    while _is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return not _is_alive(pid)


def test_it_is_what_the_loader_made_in_another_process(bundles):
    with _loaded(bundles, load_echo) as loaded:
        engine, pid = loaded.engine, loaded.engine.capacity_tokens
        assert pid != os.getpid()
        assert _is_alive(pid)
        assert (loaded.description, loaded.kv_bytes_per_token) == ("gives back", 5)
        assert (loaded.kv_host_bytes, engine.block_tokens, engine.takes_taps) == (7, 16, False)
        rows = np.arange(8, dtype=np.float32).reshape(2, 4)
        (came,) = engine.step([StepItem(engine.open(8), 0, rows, Want.ALL)])
        np.testing.assert_array_equal(came, rows)
    assert not _is_alive(pid)


def test_what_it_raises_is_raised_here(bundles):
    with _loaded(bundles, load_echo) as loaded:
        with pytest.raises(EngineFullError) as raised:
            loaded.engine.open(999)
        assert str(raised.value) == "999 are too many"
        assert "hosted.py" in raised.value.__notes__[0]
        with pytest.raises(RuntimeError) as foreign:
            loaded.engine.open(998)
        assert str(foreign.value) == "ForeignError: 998 as well"
        assert loaded.engine.open(5) == 5


def test_what_the_loader_refuses_is_refused_here(bundles):
    with pytest.raises(StartError, match="got 'tpu'"), _loaded(bundles, load_refused):
        pass


def test_a_process_that_ends_while_it_loads_may_not_the_next_time(bundles):
    with (
        pytest.raises(PassingError, match="ended by SIGKILL while it loaded the model"),
        _loaded(bundles, load_killed),
    ):
        pass


def test_a_killed_process_is_a_lost_engine(bundles):
    with _loaded(bundles, load_echo) as loaded:
        assert loaded.why_lost() is None
        os.kill(loaded.engine.capacity_tokens, signal.SIGKILL)
        deadline_s = time.monotonic() + 10
        while loaded.why_lost() is None and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert loaded.why_lost() == "the engine's process was ended by SIGKILL"
        with pytest.raises(EngineLostError, match="ended by SIGKILL"):
            loaded.engine.open(5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_all_processes_of_the_program_leave_it(bundles, number):
    with _loaded(bundles, load_echo) as loaded:
        os.kill(loaded.engine.capacity_tokens, number)
        time.sleep(0.1)
        assert loaded.engine.open(5) == 5


_PARENT = """
import sys, threading
import numpy as np
from pathlib import Path
from cloud_server.config import CloudConfig
from cloud_server.engines.engine import StepItem
from cloud_server.engines.hosting.calls import Start
from cloud_server.engines.hosting.process import load_in_own_process
from submodels.bundle.bundle import load_bundle
from tests.support.hosted import load_echo
from wire.messages import Want

folder = Path(sys.argv[1])
start = Start(load_echo, load_bundle(folder, "cloud"), CloudConfig(folder))
engine = load_in_own_process(start).engine
print(engine.capacity_tokens, flush=True)
engine.step([StepItem(1, 1000, np.zeros((1, 4), np.float32), Want.ALL)])
"""


def test_it_ends_with_a_killed_parent_in_the_middle_of_a_step(bundles):
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(bundles)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _is_alive(pid)
        parent.kill()
    assert _ends_soon(pid)


def test_modules_in_the_current_folder_are_not_taken(bundles, tmp_path, monkeypatch):
    for name in ("wire", "json", "pickle"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartError, match=str(ROOT / "wire")), _loaded(bundles, load_where):
        pass


def _children() -> set[int]:
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


async def test_answers_outlive_the_loss_of_the_process_with_the_tokens_they_would_have_had(bundles):
    config = cloud_config(bundles)
    wanted = [GenerationRequest(prompt, 60, GREEDY) for prompt in story_prompts()[:3]]
    before = _children()
    async with (
        serve_cloud(config, load_chosen_engine) as usual,
        connected_device(bundles, usual.url, {"engine": "torch"}) as device,
    ):
        undisturbed = [await generate_ids(device.runtime, each) for each in wanted]
    async with (
        serve_cloud(config, loader_for(config)) as cloud,
        connected_device(bundles, cloud.url, {"engine": "torch"}) as device,
    ):
        assert await generate_ids(device.runtime, wanted[0]) == undisturbed[0]
        (pid,) = _children() - before
        os.kill(pid, signal.SIGKILL)
        assert await generate_ids(device.runtime, wanted[1]) == undisturbed[1]
        _, page = await http_get(f"{cloud.metrics_url}/metrics")
        assert "hat_cloud_engine_restarts_total 1.0" in page
        assert await generate_ids(device.runtime, wanted[2]) == undisturbed[2]
    assert _children() <= before


def test_vllm_s_engine_stays_where_it_is(bundles):
    assert loader_for(CloudConfig(bundles, engine="vllm")) is load_chosen_engine
    assert loader_for(CloudConfig(bundles)) is not load_chosen_engine


def test_a_sequence_number_is_what_the_engine_gave(bundles):
    with _loaded(bundles, load_echo) as loaded:
        sequence = loaded.engine.open(7)
        assert sequence == SequenceId(7)
        loaded.engine.release(sequence)
