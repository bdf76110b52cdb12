"""What the models are asked: the user's prompts, or some that come with hat."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.errors import CommandError
from hat.text_lines import json_line, text_lines

_MAX_FILE_BYTES = 64 << 20

BUILT_IN = (
    "Once upon a time",
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    "One day, a big dog and a small cat went to the",
    "The sun was bright and the sky was blue. Tom wanted to",
    '"Can I help you?" asked the old man. "Yes," said',
    "Tom had a big red ball. Tom had a big red car. Tom had a big red",
    "The capital of France is",
    "Water boils at 100 degrees because",
    "Dear Sir or Madam,\n\nI am writing to",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "1, 2, 3, 4, 5, 6, 7, 8,",
    '{"name": "Ada", "born": 1815, "languages": ["English", "French"], "name": "Alan", "born":',
    "Il était une fois une petite fille qui",
    "Es war einmal ein König, der",
    "Q: Why is the sky blue?\nA:",
    "To be, or not to be, that is the question:",
)

REPETITIVE = (
    "Tom had a big red ball. Tom had a big red car. Tom had a big red ball. "
    "Tom had a big red car. Tom had a big"
)
"""For the sampled check: prompt lookup finds a draft for every position."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's place among all prompts, from 1, and its token ids."""

    number: int
    ids: tuple[int, ...]


def read_prompts(file: Path | None) -> tuple[str, ...]:
    """The prompts of a file, one per line, or the built-in ones.

    A `.jsonl` file has one object per line, whose prompt is under "prompt", or the first of
    "turns". Empty lines are passed over.

    Raises:
        CommandError: no such file, no prompt in it, or a line that is not what it should be.
    """
    if file is None:
        return BUILT_IN
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise CommandError(f"--prompts {file} is larger than {_MAX_FILE_BYTES >> 20} MiB")
        lines = text_lines(file)
    except OSError as error:
        raise CommandError(f"cannot read --prompts {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"--prompts {file}: expected UTF-8 text") from error
    is_json = file.suffix == ".jsonl"
    prompts = tuple(
        _prompt_of(line, f"--prompts {file}, line {number}") if is_json else line
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not prompts:
        raise CommandError(f"--prompts {file} holds no prompt")
    return prompts


def encode_prompts(
    prompts: Sequence[str], encode: Callable[[str], Sequence[int]], max_tokens: int
) -> list[Prompt]:
    """Those prompts that have at least one token and at most `max_tokens`."""
    encoded = [Prompt(number, tuple(encode(text))) for number, text in enumerate(prompts, 1)]
    return [prompt for prompt in encoded if 0 < len(prompt.ids) <= max_tokens]


def _prompt_of(line: str, where: str) -> str:
    try:
        value = json_line(line)
    except ValueError as error:
        raise CommandError(f"{where}: expected a JSON object: {error}") from error
    if isinstance(value, dict):
        turns = value.get("turns")
        first_turn = turns[0] if isinstance(turns, list) and turns else None
        prompt = value.get("prompt", first_turn)
        if isinstance(prompt, str) and prompt:
            return prompt
    raise CommandError(f'{where}: expected an object with a text as "prompt" or first of "turns"')
