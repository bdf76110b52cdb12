"""What the device program does where Python lacks what it has on Linux: as on Windows.

The system under these tests stays Linux or macOS: they show that nothing missing is asked for.
"""

import asyncio
import logging
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hat.cli import run
from hat.settings.secret_files import readable_note
from process import machine
from process.program.run import Signals
from process.sockets.binding import keep_to_oneself
from tests.support.as_on_windows import NoHandlersError

ROOT = Path(__file__).resolve().parents[2]

_AS_ON_WINDOWS = "from tests.support.as_on_windows import become_windows\nbecome_windows()\n"


def _run(code: str, **more: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", _AS_ON_WINDOWS + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **more,  # type: ignore[call-overload]
    )


def test_the_command_line_and_the_device_are_imported() -> None:
    code = """
import importlib, pkgutil
import hat.__main__, hat.cli, hat.chat.terminal, hat.status.run
import device_runtime, device_runtime.main
for each in pkgutil.walk_packages(device_runtime.__path__, "device_runtime."):
    if not each.name.endswith("torch_engine"):
        importlib.import_module(each.name)
print("all there")
"""
    done = _run(code)
    assert done.stdout == "all there\n", done.stderr


def test_a_template_is_rendered_and_an_endless_one_is_ended() -> None:
    code = """
from device_runtime.text.chat_template import ChatTemplate, ChatTemplateError
from device_runtime.text.template_process import TemplateLimits
endless = "{% for a in range(99999) %}" * 2 + "{% endfor %}" * 2
source = "{{ messages[0].content }}{% if messages[0].content == 'stop' %}" + endless + "{% endif %}"
template = ChatTemplate(source, {}, limits=TemplateLimits(cpu_s=99.0, wall_s=1.0))
def say(text):
    try:
        print(template.render([{"role": "user", "content": text}]).text)
    except ChatTemplateError as error:
        print("ended:", error)
for text in ("hello", "stop", "again"):
    say(text)
template.close()
"""
    done = _run(code)
    assert done.returncode == 0, done.stderr
    first, ended, last = done.stdout.splitlines()
    assert (first, last) == ("hello", "again")
    assert ended.startswith("ended: the model's chat template failed: it takes more than")


def test_the_process_of_a_template_runs_without_limits_of_the_system() -> None:
    code = """
import io, sys
from device_runtime.text import template_worker as worker
requests, answers = io.BytesIO(), io.BytesIO()
worker.write_document(requests, {"source": "{{ x }}!"})
worker.write_document(requests, {"variables": {"x": "ok"}, "now": "2026-01-01T00:00:00"})
requests.seek(0)
out = sys.stdout
sys.stdin, sys.stdout = io.TextIOWrapper(requests), io.TextIOWrapper(answers)
worker.main(1.0, 1 << 29, 1000)
answers.seek(0)
print(worker.read_document(answers), worker.read_document(answers), file=out)
sys.stdout = out
"""
    done = _run(code)
    assert done.stdout == """b'{"text": ""}' b'{"text": "ok!"}'\n""", done.stderr


async def test_signals_come_where_the_loop_takes_no_handlers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `ProactorEventLoop` of Windows."""

    def refuse(*_: object) -> None:
        raise NoHandlersError

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(type(loop), "add_signal_handler", refuse, raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        signals = Signals(logging.getLogger(__name__))
        for number in before:
            signal.raise_signal(number)
            assert await asyncio.wait_for(signals.next(), 5) is number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_listener_shares_its_port_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    class Listener:
        def setsockopt(self, *option: int) -> None:
            asked.append(option)

    keep_to_oneself(Listener())  # type: ignore[arg-type]
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    keep_to_oneself(Listener())  # type: ignore[arg-type]
    level = socket.SOL_SOCKET
    assert asked == [(level, socket.SO_REUSEADDR, 1), (level, -5, 1)]


def test_modes_of_files_mean_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o666)
    assert readable_note(secret) is not None
    monkeypatch.delattr("os.geteuid")
    assert readable_note(secret) is None


def test_what_can_be_made_again_lies_where_windows_wants_it() -> None:
    there = machine.cache_folder({"LOCALAPPDATA": "/users/me/local"})
    assert there == Path("/users/me/local/hat/cache")


@pytest.mark.parametrize("command", ["up", "cloud", "doctor", "split"])
def test_a_command_that_needs_another_system_says_so(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    arguments = {"split": ["model", "--out", "out"], "cloud": ["folder"], "doctor": ["folder"]}
    assert run([command, *arguments.get(command, [])]) == 1
    assert "needs Linux or macOS; on Windows there are hat device" in capsys.readouterr().err
