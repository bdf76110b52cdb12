"""A live run that is interrupted leaves no process behind."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from bench.arms import find_arm
from bench.link.spec import LinkSpec
from bench.live.plan import LivePlan, Setting
from bench.live.run import Progress, run_live
from tests.support.bench_runs import WORKLOAD
from tests.support.stack import split_for_serving
from tests.support.tokenizers import MODEL_FOLDER

pytestmark = pytest.mark.alone


def children() -> set[int]:
    """Processes that this one has started and that still run."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
async def test_an_interrupted_run_ends_its_processes(tmp_path: Path) -> None:
    bundles = split_for_serving(MODEL_FOLDER, tmp_path / "m1", 1)
    workload = msgspec.structs.replace(WORKLOAD, num_requests=50, max_output_tokens=4)
    setting = Setting(bundles, LinkSpec(), workload, (find_arm("hat"),), num_warm_up=0)
    plan = LivePlan((setting,))
    before = children()
    during: set[int] = set()

    def answered() -> None:
        during.update(children() - before)
        running.cancel()

    running = asyncio.create_task(run_live(plan, Progress(lambda what: None, answered)))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(during) == 3
    assert children() <= before
