"""Records docs/images/recovery.svg: a text goes on although its cloud is killed with SIGKILL.

    python docs/images/record.py [MODEL]

A real recording: MODEL (a checkpoint's folder or a hub id) is split, `hat cloud` and `hat chat`
run in two pseudo terminals with `hat device` between them, and the cloud is killed in mid-answer
and started again by what is typed. The answer must be that of an undisturbed run, letter for
letter. What the terminals showed becomes CSS animation. It differs from what was seen in three
things: the time without a cloud is shortened, and the picture says by how much; lines break
between words; what was said after the kill is green. Takes about two minutes, and ports 8000
and 7700.
"""

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from picture import Scene, drawn

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUESTION = "What is photosynthesis?"
KILLED_AFTER = 0.2
"""Share of the answer; then the command that kills is typed."""
HAT = str(Path(sys.executable).with_name("hat"))
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(HAT).parent}:{os.environ['PATH']}",
    "PS1": "$ ",
    # Is written to without escape sequences.
    "TERM": "dumb",
    "HAT_CLOUD_DTYPE": "float32",
    "HAT_CLOUD_WIRE_DTYPE": "float32",
    "HAT_DEVICE_RECONNECT_TIMEOUT_S": "240",
}
KEY_S = 0.07
TIMEOUT_S = 240.0


@dataclass
class Shell:
    """Bash in a pseudo terminal, and when it wrote what."""

    fd: int
    written: list[tuple[float, str]] = field(default_factory=list)
    decoder: codecs.IncrementalDecoder = field(
        default_factory=codecs.getincrementaldecoder("utf-8")
    )

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.written)


@dataclass
class Recorder:
    """Reads all shells while it types into one or waits for words of another."""

    shells: list[Shell] = field(default_factory=list)

    @contextlib.contextmanager
    def shell(self, folder: str) -> Iterator[Shell]:
        """Bash in `folder`, hung up on at the end.

        Its terminal is wide, so that no program breaks a line; the picture does.
        """
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], ENVIRONMENT)
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 1000, 0, 0))
        self.shells.append(Shell(fd))
        try:
            yield self.shells[-1]
        finally:
            os.close(fd)
            os.waitpid(pid, 0)

    def read(self, seconds: float) -> None:
        """Note what the shells write in so many seconds."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for fd in select.select([shell.fd for shell in self.shells], [], [], left)[0]:
                [shell] = [each for each in self.shells if each.fd == fd]
                text = shell.decoder.decode(os.read(fd, 1 << 16))
                shell.written.append((time.monotonic(), text))

    def type(self, shell: Shell, line: str) -> None:
        """Press the keys of a line one after the other, at a prompt."""
        self.wait(lambda: shell.text.endswith(("$ ", "> ")))
        for key in line:
            os.write(shell.fd, key.encode())
            self.read(KEY_S)
        self.read(4 * KEY_S)
        os.write(shell.fd, b"\r")

    def wait(self, is_there: Callable[[], object]) -> float:
        """When it was seen.

        Raises:
            TimeoutError: not within four minutes.
        """
        until = time.monotonic() + TIMEOUT_S
        while not is_there():
            if time.monotonic() > until:
                shown = "\n----\n".join(shell.text for shell in self.shells)
                raise TimeoutError(f"what was waited for did not come:\n{shown}")
            self.read(0.02)
        return time.monotonic()


def record(recorder: Recorder, chat: Shell, cloud: Shell) -> Scene:
    """Ask, kill the cloud in mid-answer, start it again, and see the answer end."""
    connected = "a device at"
    recorder.type(cloud, "hat cloud bundle/cloud &")
    recorder.wait(lambda: connected in cloud.text)
    asked = [HAT, "chat", "--temperature", "0"]
    expected = subprocess.check_output(asked, input=QUESTION, text=True).strip()
    begun = cloud.text.rstrip()
    [pid] = re.findall(r"\[1\] (\d+)", begun)
    # The recording begins with the last line.
    cloud.written = [(time.monotonic(), begun.rpartition("\n")[2])]
    os.write(cloud.fd, b"\r")
    recorder.type(chat, "hat chat --temperature 0")
    begin_s = recorder.wait(lambda: "\n> " in chat.text)

    recorder.read(1)
    recorder.type(chat, QUESTION)
    num_letters = len(chat.text) + KILLED_AFTER * len(expected)
    recorder.wait(lambda: len(chat.text) > num_letters)
    recorder.type(cloud, f"kill -9 {pid}")
    killed_s = time.monotonic()
    recorder.read(1)
    # Bash says so before its next prompt.
    os.write(cloud.fd, b"\r")
    recorder.wait(lambda: "Killed" in cloud.text)
    recorder.read(2)
    before = chat.text
    recorder.type(cloud, "hat cloud bundle/cloud")
    recorder.wait(lambda: cloud.text.count(connected) == 2)
    back_s = recorder.wait(lambda: chat.text != before)
    recorder.wait(lambda: chat.text.endswith("\n> "))

    answer = chat.text.partition(f"> {QUESTION}")[2].removesuffix("> ")
    if answer.replace("\r", "").strip() != expected:
        raise SystemExit(f"not the text of an undisturbed run:\n{answer}\n{expected}")
    return Scene(begin_s, killed_s, back_s, time.monotonic(), chat.written, cloud.written)


def main() -> None:
    """Split the model, record, and write the picture."""
    model = sys.argv[1] if len(sys.argv) > 1 else MODEL
    with tempfile.TemporaryDirectory() as folder:
        split = [HAT, "split", model, "--out", f"{folder}/bundle", "--onnx-weights", "float32"]
        subprocess.run(split, check=True)
        recorder = Recorder()
        device = [HAT, "device", f"{folder}/bundle/device", "--drafter", "ngram"]
        with (
            subprocess.Popen(device, env=ENVIRONMENT) as running,
            recorder.shell(folder) as cloud,
            recorder.shell(folder) as chat,
        ):
            try:
                scene = record(recorder, chat, cloud)
            finally:
                running.terminate()
    Path(__file__).with_name("recovery.svg").write_text(drawn(scene))


if __name__ == "__main__":
    main()
