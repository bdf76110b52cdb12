"""`hat chat`: a conversation with the endpoint from a terminal."""

import os
from typing import Any

import click

from hat.settings.options import FiniteRange
from hat.settings.secret_files import endpoint_key
from hat.up.first_steps import DEFAULT_URL
from process.addresses import is_url, without_user

_EPILOG = """
\b
Examples:
  hat chat
  hat chat --url http://jetson:8000/v1 --temperature 0 --system "Answer in one sentence."

The key, if the endpoint asks for one, comes from --api-key-file or HAT_API_KEY.
"""


@click.command(epilog=_EPILOG)
@click.option("--url", default=DEFAULT_URL, help=f"The endpoint.  [default: {DEFAULT_URL}]")
@click.option("--model", help="Model to ask; left out: the endpoint's first.")
@click.option("--system", help="A system message before the first turn.")
@click.option("--temperature", type=FiniteRange(0, 2), metavar="NUMBER", help="0 is greedy.")
@click.option("--top-p", type=FiniteRange(0, 1), metavar="NUMBER", help="Nucleus sampling.")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Most per answer.")
@click.option("--seed", type=int, metavar="N", help="Makes sampled answers repeatable.")
@click.option("--stats", is_flag=True, help="Say after each answer what it took.")
@click.option("--api-key-file", metavar="FILE", help="File with the endpoint's key.")
def chat(
    url: str, system: str | None, stats: bool, api_key_file: str | None, **fields: Any
) -> None:
    """Talk to a model in the terminal.

    /stats says what the last answer took, /reset starts over, /quit ends; Ctrl-C stops an answer,
    and at the prompt it ends too.
    """
    if not is_url(url, ("http", "https")):
        got = without_user(url)
        raise click.UsageError(f"--url: expected a URL like {DEFAULT_URL}, got {got!r}")
    from hat.chat.client import Endpoint
    from hat.chat.terminal import talk

    request = {name: value for name, value in fields.items() if value is not None}
    talk(Endpoint(url, endpoint_key(api_key_file, os.environ)), request, system, stats)
