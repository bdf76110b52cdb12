"""A conversation in a terminal: read a line, stream the answer, remember both."""

import asyncio
import contextlib
import sys
from contextlib import aclosing

import click

from hat.chat.client import ChatClient, ChatOptions, EndpointError, Message

_HELP = "/reset starts over, /quit or Ctrl-D ends, Ctrl-C stops an answer."
_PROMPT = "> "


def talk(options: ChatOptions, system: str | None) -> None:
    """Hold a conversation until the user ends it.

    Raises:
        EndpointError: the endpoint cannot be used; within a terminal, only at the start.
    """
    with asyncio.Runner() as runner:
        client = runner.run(_connect(options))
        try:
            model = runner.run(client.model())
            _Terminal(runner, client, model, system).converse()
        finally:
            runner.run(client.close())


async def _connect(options: ChatOptions) -> ChatClient:
    return ChatClient(options)


class _Terminal:
    """Reads questions between answers; Ctrl-C means the one or the other."""

    def __init__(
        self, runner: asyncio.Runner, client: ChatClient, model: str, system: str | None
    ) -> None:
        self._runner = runner
        self._client = client
        self._model = model
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[Message] = []
        """Those whose answers have begun."""
        self._is_interactive = sys.stdin.isatty()
        if self._is_interactive:
            click.echo(f"{model}. {_HELP}")
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

    async def _stream(self, messages: list[Message], pieces: list[str]) -> None:
        """Print an answer as it comes, and leave it in `pieces` however it ends."""
        async with aclosing(self._client.answer(self._model, messages)) as answer:
            async for piece in answer:
                pieces.append(piece.text)
                click.echo(piece.text, nl=False)
                if piece.finish_reason == "length":
                    click.echo(" [length limit]", nl=False)
        click.echo()
