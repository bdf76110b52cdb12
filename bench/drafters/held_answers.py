"""`python -m bench.drafters.held_answers URL`: what a grammar does to rounds, counted.

Asks the endpoint at URL (http://127.0.0.1:8000) for JSON of a schema, calls of tools and free
chats, greedy, each twice: as it is meant, and as a text that goes on behind the same prompt and is
held to nothing. Counts are no times: they say the same on any machine where the device drafts the
same, as it does with `--drafter none`; else how much is drafted depends on what rounds take.
"""

import argparse
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.drafters.held_answers_cases import CALLS, SCHEMAS, TOOLS
from bench.workloads.prompts import load_prompts
from process.machine import commit

_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What answers took: the first token of each comes with its prompt and from no round."""

    num_answers: int = 0
    num_tokens: int = 0
    num_rounds: int = 0
    num_drafted: int = 0
    num_forced: int = 0
    num_stale_rows: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.num_answers + other.num_answers,
            self.num_tokens + other.num_tokens,
            self.num_rounds + other.num_rounds,
            self.num_drafted + other.num_drafted,
            self.num_forced + other.num_forced,
            self.num_stale_rows + other.num_stale_rows,
        )

    @property
    def num_decided(self) -> int:
        """Tokens that rounds decided."""
        return self.num_tokens - self.num_answers

    @property
    def tokens_per_round(self) -> float:
        """How much a trip brings."""
        return self.num_decided / self.num_rounds

    @property
    def forced_share(self) -> float:
        """Of the tokens that rounds decided, those that the grammar had drafted."""
        return self.num_forced / self.num_decided

    @property
    def rows_per_token(self) -> float:
        """Rows that the cloud computed behind prompts, useless ones too, for each token."""
        rows = self.num_rounds + self.num_drafted + self.num_stale_rows
        return rows / self.num_decided


def counts_of(answer: Mapping[str, Any]) -> Counts:
    """Of one answer, asked with `include_hat_stats`."""
    hat = answer["hat"]
    forced = hat["drafted_by"].get("grammar", {"accepted": 0})
    return Counts(
        num_answers=1,
        num_tokens=answer["usage"]["completion_tokens"],
        num_rounds=hat["rounds"],
        num_drafted=hat["drafted_tokens"],
        num_forced=forced["accepted"],
        num_stale_rows=hat["stale_rows"],
    )


@dataclass(frozen=True, slots=True)
class Question:
    """What is said, and what the answer is held to."""

    text: str
    tools: Sequence[Mapping[str, Any]] = ()
    held: Mapping[str, Any] | None = None

    @property
    def prompt(self) -> dict[str, Any]:
        """Its part of a chat."""
        tools = {"tools": self.tools} if self.tools else {}
        return {"messages": [{"role": "user", "content": self.text}], **tools}


def questions(num: int) -> dict[str, list[Question]]:
    """So many of each kind; of those with a schema or tools there are no more than are written."""
    called = {"tool_choice": "required", "parallel_tool_calls": False}
    return {
        "JSON of a schema": [
            Question(
                case.question,
                held={
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "answer", "schema": case.schema},
                    }
                },
            )
            for case in SCHEMAS[:num]
        ],
        "calls of tools": [Question(text, TOOLS, called) for text in CALLS[:num]],
        "free chats": [Question(prompt.text) for prompt in load_prompts("spec-bench:chat", num, 1)],
    }


class Endpoint:
    """Asks; no answer is kept for drafts of later ones."""

    def __init__(self, url: str, max_tokens: int) -> None:
        self._url = url.rstrip("/")
        self._asked = {
            "max_tokens": max_tokens,
            "temperature": 0,
            "repetition_penalty": 1,
            "store": False,
            "include_hat_stats": True,
        }

    def held(self, question: Question) -> Counts:
        """As it is meant; a call that `max_tokens` cuts off is an error, and counts for nothing."""
        asked = {**question.prompt, **(question.held or {}), **self._asked}
        try:
            return counts_of(self._post("/v1/chat/completions", asked))
        except urllib.error.HTTPError as error:
            if json.load(error)["error"]["code"] != "tool_call_incomplete":
                raise
            return Counts()

    def free(self, question: Question) -> Counts:
        """The same prompt, and any text behind it."""
        prompt = self._post("/tokenize", question.prompt)["tokens"]
        return counts_of(self._post("/v1/completions", {"prompt": prompt, **self._asked}))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            return json.load(answer)


def table(rows: Iterable[tuple[str, str, Counts]]) -> Iterable[str]:
    """Markdown: kind, whether it is held, and what came."""
    yield "| | grammar | answers | tokens | tokens per round | forced | cloud rows per token |"
    yield "|---|---|---|---|---|---|---|"
    for kind, held, counts in rows:
        yield (
            f"| {kind} | {held} | {counts.num_answers} | {counts.num_tokens} "
            f"| {counts.tokens_per_round:.2f} | {100 * counts.forced_share:.0f} % "
            f"| {counts.rows_per_token:.2f} |"
        )


def measured(endpoint: Endpoint, num: int) -> Iterable[tuple[str, str, Counts]]:
    """Both ways of each kind; free chats have one."""
    for kind, asked in questions(num).items():
        if any(question.held for question in asked):
            yield kind, "on", sum(map(endpoint.held, asked), Counts())
        yield kind, "off", sum(map(endpoint.free, asked), Counts())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--questions", type=int, default=8, help="of each kind")
    parser.add_argument("--max-tokens", type=int, default=120)
    options = parser.parse_args()
    print(f"commit {commit()}, greedy, at most {options.max_tokens} tokens")
    for line in table(measured(Endpoint(options.url, options.max_tokens), options.questions)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
