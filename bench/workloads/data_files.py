"""The data that comes with the workloads; sources and licences are in `data/README.md`."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from bench.data_folder import data_folder
from process.errors import ConfigError

DATA = Path(__file__).resolve().parent / "data"
GPT2_TOKENIZER = DATA / "gpt2"
"""A folder with `tokenizer.json`, and nothing else of a model."""


class WorkloadError(ConfigError):
    """No such workload, or not with these numbers; the message says what is there."""


class PromptRow(msgspec.Struct, frozen=True):
    """One line of a file of prompts. `gpt2_tokens` is the length where the file has it."""

    id: int
    category: str
    text: str
    gpt2_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One recorded request: seconds since the first one, and its lengths in tokens."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int


@cache
def prompt_rows(name: str) -> tuple[PromptRow, ...]:
    """The prompts of `data/<name>.jsonl` in the file's order."""
    lines = (data_folder(DATA) / f"{name}.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=PromptRow) for line in lines)


@cache
def trace_rows(name: str) -> tuple[TraceRow, ...]:
    """The requests of `data/<name>.csv` in the order they came."""
    rows, now_ms = [], 0
    with (data_folder(DATA) / f"{name}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            now_ms += int(row["gap_ms"])
            lengths = int(row["prompt_tokens"]), int(row["output_tokens"])
            rows.append(TraceRow(now_ms / 1000, *lengths))
    return tuple(rows)


@cache
def book_text() -> str:
    """The excerpts of both books, one after the other."""
    return (data_folder(DATA) / "books.txt").read_text(encoding="utf-8")
