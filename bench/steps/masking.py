"""What holding an answer to a schema takes per token: `python -m bench.steps.masking FOLDER`.

FOLDER has the tokenizer of a model, such as a device bundle. JSON texts are walked token by token,
the longest that the grammar allows at each place, so every place of an answer is met as often as a
model would meet it. At each place: the mask behind a draft, in logits of 64 bits as the sampler has
them; and behind it the token is decided and what is forced is looked for. Times are those of the
processor, so that a busy machine changes them little. Compiling is timed apart,
the first time with the preparation of the tokenizer.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from bench.machine import machine_lines
from device_runtime.generation.grammar import Constraint, Grammar
from device_runtime.grammar.compiling import Grammars
from device_runtime.grammar.wanted import Json
from device_runtime.text.tokenizer import Tokenizer, load_tokenizer

_NUM_PASSES = 5
_NUM_DRAFTED = 4
"""Tokens of a draft; a mask is made behind each of them too."""
_LONGEST_BYTES = 32

_WORDS = "The quick brown fox jumps over the lazy dog, and nobody knows why it does. " * 4
_WORD: Mapping[str, Any] = {"type": "string"}
_COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 0, "maximum": 120}


def _closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_LINE = _closed(text=_WORD, count=_COUNT, price={"type": "number", "minimum": 0, "maximum": 1e4})
_PERSON = _closed(name={"type": "string", "maxLength": 40}, age=_COUNT, colour={"enum": ["red"]})

_CASES: Mapping[str, tuple[Any, Any]] = {
    "a form": (_PERSON, {"name": "Anna Maria Schmidt", "age": 42, "colour": "red"}),
    "any JSON": (
        {"type": "object"},
        {"title": "Dogs", "tags": ["a", "b c"], "n": [1, 2.5, None], "more": {"x": _WORDS[:60]}},
    ),
    "a long text": (_closed(summary=_WORD), {"summary": _WORDS}),
    "an invoice": (
        _closed(
            number={"type": "string", "pattern": r"^INV-\d{4}$"},
            issued={"type": "string", "format": "date"},
            lines={"type": "array", "items": _LINE},
        ),
        {
            "number": "INV-2041",
            "issued": "2026-03-14",
            "lines": [{"text": "Blue paint", "count": n, "price": n + 0.5} for n in range(6)],
        },
    ),
    "500 choices": ({"enum": [f"choice number {n}" for n in range(500)]}, "choice number 321"),
    "a pattern": (
        {"type": "string", "pattern": r"^[\w.]{1,30}@[\w-]{1,20}\.(com|org|net)$"},
        "somebody.unknown@example-site.org",
    ),
}


@dataclass
class Times:
    """Seconds, one for each token."""

    mask_s: list[float] = field(default_factory=list)
    """Making a mask behind a draft and forbidding what it does."""
    step_s: list[float] = field(default_factory=list)
    """Deciding a token and looking for forced ones."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab-size", type=int, help="of the model, where the tokenizer's is not")
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.folder)
    vocab_size = options.vocab_size or _num_tokens(tokenizer)
    end = next(iter(tokenizer.special_ids.values()))
    grammars = Grammars(tokenizer.as_json(), vocab_size, (end,), tokenizer.special_ids)
    started_s = time.thread_time()
    grammars.compile(Json(True))
    prepared_s = time.thread_time() - started_s
    print("\n".join(machine_lines()))
    print(f"{vocab_size} tokens, prepared in {prepared_s:.2f} s\n")
    print(
        "| schema | tokens | compiled, ms | mask, ms per token | 99 of 100 | most "
        "| deciding and forced tokens |\n|---|---|---|---|---|---|---|"
    )
    vocabulary = _vocabulary(tokenizer, vocab_size)
    for name, (schema, value) in _CASES.items():
        print(_row(name, grammars, vocabulary, schema, value))


def _row(
    name: str, grammars: Grammars, vocabulary: Mapping[bytes, int], schema: Any, value: Any
) -> str:
    started_s = time.thread_time()
    grammar = grammars.compile(Json(schema))
    compiled_s = time.thread_time() - started_s
    times = Times()
    ids = list(_ids(grammar.start(), vocabulary, json.dumps(value).encode()))
    for _ in range(_NUM_PASSES):
        _walk(grammar, ids, times)
    mask, step = np.array(times.mask_s) * 1e3, np.array(times.step_s) * 1e3
    return (
        f"| {name} | {len(ids)} | {compiled_s * 1e3:.1f} | {mask.mean():.3f} "
        f"| {np.quantile(mask, 0.99):.3f} | {mask.max():.3f} | {step.mean():.3f} |"
    )


def _num_tokens(tokenizer: Tokenizer) -> int:
    return int(tokenizers.Tokenizer.from_str(tokenizer.as_json()).get_vocab_size())


def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> Mapping[bytes, int]:
    special = set(tokenizer.special_ids.values())
    ids = (token for token in range(vocab_size) if token not in special)
    return {tokenizer.token_bytes(token): token for token in ids}


def _ids(constraint: Constraint, vocabulary: Mapping[bytes, int], text: bytes) -> Iterator[int]:
    """The tokens of a text, each the longest that may stand there.

    Raises:
        ValueError: the schema does not allow the text.
    """
    while text:
        allowed = constraint.allowed()
        lengths = range(min(_LONGEST_BYTES, len(text)), 0, -1)
        fitting = (vocabulary.get(text[:length], -1) for length in lengths)
        token = next((token for token in fitting if token >= 0 and allowed[token]), None)
        if token is None:
            raise ValueError(f"expected a text that fits, got {text[:20]!r}")
        constraint.commit(token)
        yield token
        text = text[next(length for length in lengths if vocabulary.get(text[:length]) == token) :]


def _walk(grammar: Grammar, ids: Sequence[int], times: Times) -> None:
    """Decide the tokens in drafts, each of whose places is looked at."""
    constraint = grammar.start()
    logits = np.zeros(len(constraint.allowed()))
    for start in range(0, len(ids), _NUM_DRAFTED):
        draft = ids[start : start + _NUM_DRAFTED]
        for place in range(len(draft)):
            started_s = time.thread_time()
            logits[~constraint.allowed(draft[:place])] = -np.inf
            times.mask_s.append(time.thread_time() - started_s)
        for token in draft:
            started_s = time.thread_time()
            constraint.commit(token)
            constraint.forced()
            times.step_s.append(time.thread_time() - started_s)


if __name__ == "__main__":
    main()
