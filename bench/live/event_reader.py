"""One streamed answer: when each piece came, how many tokens it held, and what the server says."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from bench.arms import Where
from bench.records import RequestRecord, Span

_DATA = b"data: "
_DONE = b"[DONE]"
_JSON = {"Content-Type": "application/json"}


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    """A piece of a completion has `text`, one of a chat's answer a `delta`."""

    text: str = ""
    delta: _Delta | None = None

    @property
    def words(self) -> str:
        return self.text if self.delta is None else self.delta.content or ""


class _Figures(msgspec.Struct):
    rounds: int
    drafted_by_position: list[int]
    accepted_by_position: list[int]
    bytes_up: int
    bytes_down: int
    chunk_tokens: list[int]
    seconds: dict[str, float]
    pipelined_rows: int = 0
    stale_rows: int = 0
    timeline: list[Span] = []


class _Error(msgspec.Struct):
    code: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    hat: _Figures | None = None
    error: _Error | None = None


@dataclass(slots=True)
class Answer:
    """What came. Times in seconds after the request was due."""

    emissions: list[tuple[float, int]] = field(default_factory=list)
    prompt_tokens: int = 0
    figures: _Figures | None = None
    error: str | None = None
    num_tokens: int = 0
    http_bytes_up: int = 0
    http_bytes_down: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def take(self, line: bytes, now_s: float) -> None:
        """One line of the stream; whatever is no event is passed over."""
        self.http_bytes_down += len(line)
        if not line.startswith(_DATA) or line.startswith(_DATA + _DONE):
            return
        event = msgspec.json.decode(line[len(_DATA) :], type=_Event)
        if event.error is not None:
            self.error = event.error.code or "error"
        for choice in event.choices:
            self.digest.update(choice.words.encode())
        if event.usage is not None:
            self.prompt_tokens = event.usage.prompt_tokens
            num_new = event.usage.completion_tokens - self.num_tokens
            if num_new > 0:
                self.emissions.append((now_s, num_new))
                self.num_tokens = event.usage.completion_tokens
        if event.hat is not None:
            self.figures = event.hat

    def crossed_bytes(self, where: Where) -> tuple[int, int]:
        """Bytes up and down the link: of frames, of HTTP bodies, or none."""
        match where:
            case "split" if self.figures is not None:
                return self.figures.bytes_up, self.figures.bytes_down
            case "cloud":
                return self.http_bytes_up, self.http_bytes_down
            case _:
                return 0, 0

    def record(self, number: int, device: int, arrival_s: float) -> RequestRecord:
        """The request as results keep it."""
        figures = self.figures or _Figures(0, [], [], 0, 0, [], {})
        return RequestRecord(
            number=number,
            device=device,
            prompt_tokens=self.prompt_tokens,
            arrival_s=arrival_s,
            emissions=self.emissions,
            output_sha256=self.digest.hexdigest(),
            rounds=figures.rounds,
            drafted_by_position=figures.drafted_by_position,
            accepted_by_position=figures.accepted_by_position,
            pipelined_rows=figures.pipelined_rows,
            stale_rows=figures.stale_rows,
            chunk_tokens=figures.chunk_tokens,
            seconds=figures.seconds,
            spans=figures.timeline,
            error=self.error,
        )


async def ask(
    http: aiohttp.ClientSession, url: str, body: Mapping[str, Any], due_s: float
) -> Answer:
    """Ask and read to the end; an error becomes a code in the answer. `due_s` is on `perf_counter`.

    Bytes are split into lines as they come, so a piece's time is when its last byte was read.
    """
    document = msgspec.json.encode(body)
    answer = Answer(http_bytes_up=len(document))
    try:
        async with http.post(url, data=document, headers=_JSON) as response:
            if response.status != 200:
                answer.error = _code(await response.read()) or f"status_{response.status}"
                return answer
            async for line in response.content:
                answer.take(line, time.perf_counter() - due_s)
    except (aiohttp.ClientError, OSError) as error:
        answer.error = type(error).__name__
    if answer.error is None and answer.figures is None:
        answer.error = "incomplete"
    return answer


def _code(document: bytes) -> str | None:
    try:
        error = msgspec.json.decode(document, type=_Event).error
    except msgspec.DecodeError:
        return None
    return None if error is None else error.code
