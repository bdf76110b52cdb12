"""A conversation in a terminal: read a line, stream the answer, remember both."""

import asyncio
import contextlib
import sys
from contextlib import aclosing

import click

from hat.chat.client import ChatClient, ChatOptions, EndpointError, Message

_HELP = "/reset starts over, /quit or Ctrl-D ends, Ctrl-C stops an answer."
_PROMPT = "> "


class Conversation:
    """The turns so far; a turn counts once its answer has begun."""

    def __init__(self, system: str | None) -> None:
        self._opening = [] if system is None else [Message("system", system)]
        self._turns: list[Message] = []

    def with_question(self, text: str) -> list[Message]:
        """What to send to have `text` answered."""
        return [*self._opening, *self._turns, Message("user", text)]

    def remember(self, question: str, answer: str) -> None:
        """Keep a question with its answer, which may have been stopped."""
        if answer:
            self._turns += [Message("user", question), Message("assistant", answer)]

    def reset(self) -> None:
        """Forget all turns but the system's."""
        self._turns.clear()


def talk(options: ChatOptions, system: str | None) -> None:
    """Hold a conversation until the user ends it.

    Raises:
        EndpointError: the endpoint cannot be used; within a terminal, only at the start.
    """
    with asyncio.Runner() as runner:
        client = runner.run(_connect(options))
        try:
            model = runner.run(client.model())
            _Terminal(runner, client, model).converse(Conversation(system))
        finally:
            runner.run(client.close())


async def _connect(options: ChatOptions) -> ChatClient:
    return ChatClient(options)


class _Terminal:
    """Reads questions between answers; Ctrl-C means the one or the other."""

    def __init__(self, runner: asyncio.Runner, client: ChatClient, model: str) -> None:
        self._runner = runner
        self._client = client
        self._model = model
        self._is_interactive = sys.stdin.isatty()
        if self._is_interactive:
            click.echo(f"{model}. {_HELP}")
            # Line editing and history for input(), where the platform has them.
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401

    def converse(self, conversation: Conversation) -> None:
        """Answer questions until there are no more."""
        while (question := self._read()) is not None:
            if question == "/quit":
                return
            if question == "/reset":
                conversation.reset()
                click.echo("A new conversation.", err=True)
            elif question.startswith("/"):
                click.echo(_HELP)
            elif question:
                self._answer(conversation, question)

    def _read(self) -> str | None:
        try:
            line = input(_PROMPT) if self._is_interactive else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return None
        return line.strip() if line or self._is_interactive else None

    def _answer(self, conversation: Conversation, question: str) -> None:
        pieces: list[str] = []
        try:
            self._runner.run(self._stream(conversation.with_question(question), pieces))
        except KeyboardInterrupt:
            click.echo(" [stopped]")
        except EndpointError as error:
            if not self._is_interactive:
                raise
            click.echo(f"{'' if not pieces else chr(10)}hat: {error}", err=True)
        conversation.remember(question, "".join(pieces))

    async def _stream(self, messages: list[Message], pieces: list[str]) -> None:
        """Print an answer as it comes, and leave it in `pieces` however it ends."""
        async with aclosing(self._client.answer(self._model, messages)) as answer:
            async for piece in answer:
                pieces.append(piece.text)
                click.echo(piece.text, nl=False)
                if piece.finish_reason == "length":
                    click.echo(" [length limit]", nl=False)
        click.echo()
