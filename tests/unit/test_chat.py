"""`hat chat` against a scripted endpoint: turns, errors, Ctrl-C."""

import asyncio
import os
import pty
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest
from aiohttp import web

from hat.chat.client import Endpoint, EndpointError
from tests.support.chat_endpoint import BREAK, HANG, ChatEndpoint, serving

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("HAT_")}


async def _refused(endpoint: ChatEndpoint) -> str:
    async with serving(endpoint):
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        with pytest.raises(EndpointError) as caught:
            [piece async for piece in Endpoint(endpoint.url).answer(asked)]
        return str(caught.value)


async def _chat(endpoint: ChatEndpoint, text: str, *flags: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `hat chat` with `text` on its standard input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hat", "chat", "--url", endpoint.url, *flags),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd=ROOT,
        env=ENVIRON,
    )
    out, err = await asyncio.wait_for(process.communicate(text.encode()), DEADLINE_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_conversation_sends_all_its_turns_until_it_is_reset() -> None:
    endpoint = ChatEndpoint([["Hel", "lo."], ["Sure."], ["New."]])
    async with serving(endpoint):
        lines = "first\nsecond\n/reset\nthird\n/quit\nnever\n"
        flags = ("--system", "be kind", "--temperature", "0", "--seed", "7")
        code, out, _ = await _chat(endpoint, lines, *flags)
    assert (code, out) == (0, "Hello.\nSure.\nNew.\n")
    contents = [[m["content"] for m in r["messages"]] for r in endpoint.requests]
    assert contents == [
        ["be kind", "first"],
        ["be kind", "first", "Hello.", "second"],
        ["be kind", "third"],
    ]
    first = endpoint.requests[0]
    assert first["messages"][0]["role"] == "system"
    assert (first["model"], first["temperature"], first["seed"]) == ("scripted", 0, 7)


async def test_the_key_comes_from_a_file_or_a_variable(tmp_path: Path) -> None:
    endpoint = ChatEndpoint([])
    async with serving(endpoint):
        (tmp_path / "key").write_text("from-file\n")
        await _chat(endpoint, "", "--api-key-file", str(tmp_path / "key"))
        await _chat(endpoint, "")
    assert endpoint.keys == ["Bearer from-file", None]


async def test_an_answer_that_hits_the_length_limit_says_so() -> None:
    endpoint = ChatEndpoint([["one two"]], finish_reason="length")
    async with serving(endpoint):
        assert (await _chat(endpoint, "count\n"))[1] == "one two [length limit]\n"


FIGURES = {
    "usage": {"prompt_tokens": 141, "completion_tokens": 43},
    "hat": {
        "reused_prompt_tokens": 117,
        "rounds": 18,
        "drafted_tokens": 34,
        "accepted_tokens": 24,
        "first_token_s": 0.21,
        "seconds": {"total": 1.61},
    },
}
STATS = (
    "43 tokens, 30.0 per second; first after 210 ms; 18 rounds; "
    "drafted tokens accepted: 24 of 34 (71 %); prompt tokens reused: 117 of 141 (83 %)\n"
)


async def test_stats_say_what_an_answer_took_after_each_or_when_asked() -> None:
    endpoint = ChatEndpoint([["One."], ["Two."], ["Three."]], figures=FIGURES)
    async with serving(endpoint):
        always = await _chat(endpoint, "a\nb\n", "--stats")
        asked = await _chat(endpoint, "/stats\nc\n/stats\n")
    assert always == (0, "One.\nTwo.\n", 2 * STATS)
    assert asked[:2] == (0, "Three.\n")
    assert asked[2].endswith(STATS)
    assert asked[2].startswith("No answer has come to its end here")
    assert all(each["include_hat_stats"] is True for each in endpoint.requests)


async def test_an_endpoint_without_such_figures_is_said_to_have_none() -> None:
    endpoint = ChatEndpoint([["One."]])
    async with serving(endpoint):
        _, out, err = await _chat(endpoint, "a\n", "--stats")
    assert out == "One.\n"
    assert "the endpoint does not say what it took" in err


async def test_nothing_listening_is_one_line_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        code, _, message = await _chat(ChatEndpoint([], url=url), "hi\n")
    assert code == 1
    assert message == f"hat: no endpoint at {url}: connection refused; `hat up` starts one\n"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, {"error": {"message": "cloud unreachable"}}, "503 cloud unreachable"),
        (401, {"error": {"message": "wrong key"}}, "401 wrong key"),
        (404, {"x": 1}, '404 {"x": 1}; does the URL end in /v1?'),
    ],
)
async def test_a_refusal_shows_the_status_and_the_reason(
    status: int, body: dict[str, object], expected: str
) -> None:
    refusal = web.json_response(body, status=status)
    assert await _refused(ChatEndpoint([], refusal=refusal)) == expected


async def test_an_answer_that_breaks_off_is_an_error() -> None:
    assert await _refused(ChatEndpoint([["half", BREAK]])) == "the endpoint broke off the answer"


@pytest.mark.parametrize("event", ["no json", "[]", "{}", '{"choices": [1]}'])
async def test_an_event_that_is_no_chat_chunk_is_an_error(event: str) -> None:
    refusal = web.Response(text=f"data: {event}\n\n", content_type="text/event-stream")
    message = await _refused(ChatEndpoint([], refusal=refusal))
    assert message == "the endpoint sent an event that is not a chat chunk"


async def test_an_error_inside_a_stream_is_shown() -> None:
    refusal = web.Response(text='data: {"error": {"message": "cloud lost"}}\n\n')
    assert await _refused(ChatEndpoint([], refusal=refusal)) == "cloud lost"


class _Terminal:
    """A `hat chat` that believes to be in a terminal."""

    def __init__(self, process: Process, master: int) -> None:
        self.process = process
        self._master = master
        self._seen = ""
        self._arrived = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    @classmethod
    async def start(cls, url: str) -> "_Terminal":
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hat", "chat", "--url", url),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env=ENVIRON,
        )
        os.close(slave)
        return cls(process, master)

    def _read(self) -> None:
        try:
            self._seen += os.read(self._master, 4096).decode()
        except OSError:
            asyncio.get_running_loop().remove_reader(self._master)
        self._arrived.set()

    async def wait_for(self, text: str) -> None:
        """Wait until `text` was printed, and forget everything up to it."""
        async with asyncio.timeout(DEADLINE_S):
            while text not in self._seen:
                self._arrived.clear()
                await self._arrived.wait()
        self._seen = self._seen.partition(text)[2]

    async def interrupt_until_exit(self) -> int:
        """Press Ctrl-C until the process ends, and give its exit code.

        Once need not do: line editing shows its prompt a moment before it listens.
        """
        exited = asyncio.ensure_future(self.process.wait())
        async with asyncio.timeout(DEADLINE_S):
            while not exited.done():
                self.process.send_signal(signal.SIGINT)
                await asyncio.wait([exited], timeout=1.0)
        return exited.result()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


async def test_ctrl_c_stops_the_answer_and_at_the_prompt_it_quits() -> None:
    endpoint = ChatEndpoint([["Once", HANG], ["Again."]])
    async with serving(endpoint):
        terminal = await _Terminal.start(endpoint.url)
        await terminal.wait_for("> ")
        terminal.type("tell\n")
        await terminal.wait_for("Once")
        terminal.process.send_signal(signal.SIGINT)
        await terminal.wait_for("[stopped]")
        await asyncio.wait_for(endpoint.client_left.wait(), DEADLINE_S)
        terminal.type("more\n")
        await terminal.wait_for("Again.")
        await terminal.wait_for("> ")
        assert await terminal.interrupt_until_exit() == 0
        terminal.close()
    assert [m["content"] for m in endpoint.requests[1]["messages"]] == ["tell", "Once", "more"]


async def test_in_a_terminal_an_error_does_not_end_the_conversation() -> None:
    endpoint = ChatEndpoint([["half", BREAK], ["whole"]])
    async with serving(endpoint):
        terminal = await _Terminal.start(endpoint.url)
        await terminal.wait_for("> ")
        terminal.type("one\n")
        await terminal.wait_for("hat: the endpoint broke off the answer")
        await terminal.wait_for("> ")
        terminal.type("two\n")
        await terminal.wait_for("whole")
        terminal.type("/quit\n")
        assert await asyncio.wait_for(terminal.process.wait(), DEADLINE_S) == 0
        terminal.close()
