"""Tokenizers and templates in threads of their own, so that streams go on meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from device_runtime.generation.request import OverloadedError

# A tokenizer takes some milliseconds for these.
_SHORT_CHARACTERS = 10_000
_RETRY_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Lane:
    """Threads for work of one kind; `unfinished` is what runs and what waits."""

    threads: ThreadPoolExecutor
    most: int
    unfinished: set[Future[Any]] = field(default_factory=set)


class TextWork:
    """Four lanes of threads: a long text holds up no short one, and neither a template nor a
    grammar a text.

    Each is bounded: what comes when its lane is full is refused, and may come again.
    """

    def __init__(
        self,
        most_short: int = 256,
        most_long: int = 16,
        most_templates: int = 64,
        most_grammars: int = 32,
    ) -> None:
        self._short = _Lane(ThreadPoolExecutor(1, "short-text"), most_short)
        self._long = _Lane(ThreadPoolExecutor(1, "long-text"), most_long)
        self._templates = _Lane(ThreadPoolExecutor(2, "template"), most_templates)
        self._grammars = _Lane(ThreadPoolExecutor(1, "grammar"), most_grammars)

    async def tokenize(self, num_characters: int, work: Callable[[], T]) -> T:
        """The result of `work`, which reads or writes texts of so many characters in all.

        Raises:
            OverloadedError: too much is waiting already.
        """
        lane = self._short if num_characters <= _SHORT_CHARACTERS else self._long
        return await _run(lane, work, "too many texts wait for the tokenizer")

    async def render(self, work: Callable[[], T]) -> T:
        """The result of `work`, which renders a template.

        Raises:
            OverloadedError: too much is waiting already.
        """
        return await _run(self._templates, work, "too many conversations wait for the template")

    async def compile(self, work: Callable[[], T]) -> T:
        """The result of `work`, which compiles a grammar.

        Raises:
            OverloadedError: too much is waiting already.
        """
        return await _run(self._grammars, work, "too many grammars wait to be compiled")

    def close(self) -> None:
        """Take no more work, and drop what has not begun."""
        for lane in (self._short, self._long, self._templates, self._grammars):
            lane.threads.shutdown(wait=False, cancel_futures=True)


async def _run(lane: _Lane, work: Callable[[], T], refusal: str) -> T:
    if len(lane.unfinished) >= lane.most:
        raise OverloadedError(refusal, _RETRY_S)
    future = lane.threads.submit(work)
    lane.unfinished.add(future)
    future.add_done_callback(lane.unfinished.discard)
    return await asyncio.wrap_future(future)
