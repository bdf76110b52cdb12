"""A conversation in a terminal: read a line, stream the answer, remember both."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import click

from hat.chat.client import Endpoint, EndpointError
from hat.chat.stats import AnswerStats

_HELP = (
    "/stats says what the last answer took, /reset starts over, /quit or Ctrl-D ends, "
    "Ctrl-C stops an answer."
)
_NO_STATS = "No answer has come to its end here, or the endpoint does not say what it took."
_DRAFTED = "[no cloud: the draft model alone answers, worse than the model]"
_PROMPT = "> "


def talk(
    endpoint: Endpoint, request: Mapping[str, Any], system: str | None, shows_stats: bool
) -> None:
    """Hold a conversation until the user ends it.

    Args:
        endpoint: Whom to ask.
        request: Fields of every request; without a model, it is the endpoint's first.
        system: A message before the first turn.
        shows_stats: After each answer say what it took.

    Raises:
        EndpointError: the endpoint cannot be used; within a terminal, only at the start.
    """
    with asyncio.Runner() as runner:
        if "model" not in request:
            request = {**request, "model": runner.run(endpoint.first_model())}
        _Terminal(runner, endpoint, request, system, shows_stats).converse()


class _Terminal:
    """Reads questions between answers; Ctrl-C means the one or the other."""

    def __init__(
        self,
        runner: asyncio.Runner,
        endpoint: Endpoint,
        request: Mapping[str, Any],
        system: str | None,
        shows_stats: bool,
    ) -> None:
        self._runner = runner
        self._endpoint = endpoint
        self._request = request
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[dict[str, str]] = []
        """Those whose answers have begun."""
        self._shows_stats = shows_stats
        self._stats: AnswerStats | None = None
        """Of the last answer, if it came to its end."""
        self._is_interactive = sys.stdin.isatty()
        if self._is_interactive:
            click.echo(f"{request['model']}. {_HELP}")
            # Line editing and history for input(), where the platform has them.
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401

    def converse(self) -> None:
        """Answer questions until there are no more."""
        while (question := self._read()) is not None:
            if question == "/quit":
                return
            if question == "/reset":
                self._turns.clear()
                click.echo("A new conversation.", err=True)
            elif question == "/stats":
                self._show_stats()
            elif question.startswith("/"):
                click.echo(_HELP)
            elif question:
                self._answer(question)

    def _read(self) -> str | None:
        try:
            line = input(_PROMPT) if self._is_interactive else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return None
        return line.strip() if line or self._is_interactive else None

    def _answer(self, question: str) -> None:
        asked = {"role": "user", "content": question}
        pieces: list[str] = []
        self._stats = None
        try:
            self._runner.run(self._stream([*self._opening, *self._turns, asked], pieces))
        except KeyboardInterrupt:
            click.echo(" [stopped]")
        except EndpointError as error:
            if not self._is_interactive:
                raise
            click.echo(f"{'' if not pieces else chr(10)}hat: {error}", err=True)
        if answer := "".join(pieces):
            self._turns += [asked, {"role": "assistant", "content": answer}]

    async def _stream(self, messages: list[dict[str, str]], pieces: list[str]) -> None:
        """Print an answer as it comes, and leave it in `pieces` however it ends."""
        request = {**self._request, "messages": messages}
        is_told = False
        async with aclosing(self._endpoint.answer(request)) as answer:
            async for piece in answer:
                if piece.is_drafted and not is_told:
                    is_told = True
                    click.secho(_DRAFTED, err=True, dim=True)
                pieces.append(piece.text)
                click.echo(piece.text, nl=False)
                self._stats = piece.stats or self._stats
                if piece.finish_reason == "length":
                    click.echo(" [length limit]", nl=False)
        click.echo()
        if self._shows_stats:
            self._show_stats()

    def _show_stats(self) -> None:
        """On stderr: what a script reads are answers."""
        line = _NO_STATS if self._stats is None else self._stats.line()
        click.secho(line, err=True, dim=True)
