"""`hat up` as a user runs it: real processes, the shipped model, the commands it prints."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.support.process_lines import ROOT, ProcessLines, WatchedProcess, process_lines

DEADLINE_S = 120.0

NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux's pidfd"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No settings from outside, no package index, and one cache of bundles for this module."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HAT_")}
    return {
        **kept,
        "HAT_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
    } | NO_INDEX


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _up(environ: dict[str, str], *flags: str) -> AbstractAsyncContextManager[ProcessLines]:
    device_port, cloud_port = _free_ports()
    ports = (f"--port={device_port}", f"--cloud-port={cloud_port}")
    command = (sys.executable, "-m", "hat", "up", *ports, *flags)
    return process_lines(*command, environ=environ)


async def _announced(up: ProcessLines) -> list[WatchedProcess]:
    """Both children, once the endpoint was announced to the last line."""
    await up.wait_for("Ctrl-C stops both sides", DEADLINE_S)
    children = _children(up.process.pid)
    assert len(children) == 2
    return [WatchedProcess(child) for child in children]


def _mapped_files(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def _resident_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _children_of_any_thread(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _printed_requests(lines: list[str]) -> list[str]:
    """The curl commands, each with its continuation lines, as they would be pasted."""
    shown = [line for line in lines if not line.startswith(("cloud  |", "device |", "hat:"))]
    requests = ["  curl " + rest for rest in "\n".join(shown).split("  curl ")[1:]]
    return [request.partition("\n\n")[0] for request in requests]


async def _shell(command: str, text: str = "") -> str:
    process = await asyncio.create_subprocess_shell(command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
    out, _ = await asyncio.wait_for(process.communicate(text.encode()), DEADLINE_S)
    assert process.returncode == 0
    return out.decode()


async def test_up_answers_what_it_printed_and_leaves_no_one_behind_however_it_ends(
    environ: dict[str, str],
) -> None:
    async with _up(environ) as up:
        children = await _announced(up)
        assert up.lines[0].startswith(
            "hat: fetching SmolLM2-135M-Instruct.Q4_1 (93 MB, Apache-2.0)"
        )
        assert "going on with stories260k" in up.lines[1]
        assert up.lines[2].startswith("hat: splitting ")
        cloud, device = _children(up.process.pid)
        (engine,) = _children_of_any_thread(cloud)
        has_torch = ["libtorch" in _mapped_files(pid) for pid in (engine, cloud, device)]
        assert has_torch == [True, False, False]
        children.append(WatchedProcess(engine))
        completion, chat = [json.loads(await _shell(r)) for r in _printed_requests(up.lines)]
        assert completion["choices"][0]["text"].startswith(", there was a")
        assert completion["usage"]["completion_tokens"] == 60
        assert chat["choices"][0]["finish_reason"] in ("stop", "length")
        hint = next(line for line in up.lines if "second terminal: " in line)
        command = f"{hint.partition(': ')[2]} --max-tokens 5 --temperature 0"
        answer = await _shell(command, "Once upon a time\n")
        assert answer.endswith("[length limit]\n")
        up.process.send_signal(signal.SIGTERM)
        assert await up.wait_for_end(DEADLINE_S) == 0
        assert all(child.ends_within(0) for child in children)
    async with _up(environ) as up:
        children = await _announced(up)
        assert up.lines[2].startswith(f"hat: using {environ['HAT_CACHE']}/bundles/stories260k-")
        up.process.kill()
        assert all(child.ends_within(DEADLINE_S) for child in children)
        await up.process.wait()


async def test_a_port_in_use_is_said_before_anything_is_started(environ: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with _up(environ, f"--cloud-port={port}") as up:
            assert await up.wait_for_end(DEADLINE_S) == 1
    expected = f"hat: port {port} of 127.0.0.1 is in use; choose another with --cloud-port"
    assert up.lines == [expected]


async def test_a_bundle_that_does_not_load_stops_everything_with_the_reason(
    environ: dict[str, str], tmp_path: Path
) -> None:
    for side in ("device", "cloud"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "hat.json").write_text("{}")
    async with _up(environ, str(tmp_path)) as up:
        assert await up.wait_for_end(DEADLINE_S) == 1
        assert up.lines[-1].startswith("hat: the cloud side ended with exit code 2 (")
        assert "format_version" in up.lines[-1]


@pytest.mark.slow
async def test_without_a_model_named_a_real_one_answers_as_it_should(tmp_path: Path) -> None:
    """As `make run` on a machine with a package index: the printed line, answered with Paris."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HAT_")}
    environ |= {"HAT_CACHE": str(tmp_path)}
    async with _up(environ) as up:
        await _announced(up)
        if any("going on with stories260k" in line for line in up.lines):
            pytest.skip("no package index can be reached here")
        (chat,) = [json.loads(await _shell(r)) for r in _printed_requests(up.lines)]
        assert chat["choices"][0]["message"]["content"] == "The capital of France is Paris."
        assert any(
            "temperature 0, repetition_penalty 1.1 (--sampling-defaults)" in line
            for line in up.lines
        )
        assert _resident_kb(up.process.pid) < 100_000, "hat up itself holds no model and no torch"
