"""Texts that a model wrote itself, kept in a folder: what drafters are replayed along."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.data.whole_model import WholeModel
from bench.drafters.texts.answers import Answer, Teacher
from bench.drafters.texts.cases import Case
from bench.drafters.texts.choosing import choice_of
from submodels.manifest import Manifest

_BATCH_SLOTS = 20
"""Answers that are written side by side."""


@dataclass(frozen=True, slots=True)
class Writing:
    """By which rule answers are written, how long at most, and from which seed."""

    rules: tuple[str, ...]
    max_tokens: int = 100
    seed: int = 0

    def seed_of(self, case: Case) -> int:
        """The seed of a request for this prompt."""
        return self.seed + case.number


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt and the model's answer to it by one rule.

    `deep` `[A, H]`: row i is the one that token i of the answer was chosen from. An answer of
    `max_tokens` tokens was cut there, a shorter one ends with a stop token.
    """

    case: Case
    rule: str
    seed: int
    max_tokens: int
    answer: tuple[int, ...]
    deep: NDArray[np.float32]

    @property
    def num_starts(self) -> int:
        """Places where a round may begin: behind every token of the answer but the last."""
        return len(self.answer) - 1


def own_texts(
    teacher: Teacher,
    cases: Sequence[Case],
    writing: Writing,
    folder: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Text]:
    """The answers to all prompts by all rules; those that `folder` lacks are written there first.

    A text's file is named after all that it follows from: the model's fingerprint, the prompt's
    tokens, rule, seed and length. `progress` gets a line now and then.

    Raises:
        OSError: a file cannot be read or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = teacher.model.manifest
    wanted = [(case, rule) for case in cases for rule in writing.rules]
    files = {place: folder / _file_name(manifest, *place, writing) for place in wanted}
    missing = [place for place in wanted if not files[place].is_file()]
    num_done = 0
    for batch in _batches(missing):
        for place, answer in _written(teacher, batch, writing):
            _store(files[place], answer)
            num_done += 1
        progress(f"{num_done} of {len(missing)} answers written")
    return [_load(files[place], *place, writing) for place in wanted]


def stop_token_ids(model: WholeModel) -> frozenset[int]:
    """Tokens that end an answer."""
    return frozenset(model.manifest.eos_token_ids)


def _batches(missing: list[tuple[Case, str]]) -> Iterator[list[tuple[Case, str]]]:
    """Prompts of about the same length together; one prompt's rules stay together."""
    by_case: dict[Case, list[str]] = {}
    for case, rule in missing:
        by_case.setdefault(case, []).append(rule)
    batch: list[tuple[Case, str]] = []
    for case in sorted(by_case, key=lambda case: len(case.token_ids)):
        if len(batch) + len(by_case[case]) > _BATCH_SLOTS:
            yield batch
            batch = []
        batch += [(case, rule) for rule in by_case[case]]
    if batch:
        yield batch


def _written(
    teacher: Teacher, batch: list[tuple[Case, str]], writing: Writing
) -> Iterator[tuple[tuple[Case, str], Answer]]:
    by_case: dict[Case, list[str]] = {}
    for case, rule in batch:
        by_case.setdefault(case, []).append(rule)
    prompts = [case.token_ids for case in by_case]
    choices = [
        [choice_of(rule, writing.seed_of(case)) for rule in rules]
        for case, rules in by_case.items()
    ]
    stop = stop_token_ids(teacher.model)
    came = teacher.answers(prompts, choices, writing.max_tokens, stop)
    for (case, rules), answers in zip(by_case.items(), came, strict=True):
        yield from zip(((case, rule) for rule in rules), answers, strict=True)


def _file_name(manifest: Manifest, case: Case, rule: str, writing: Writing) -> str:
    seed = writing.seed_of(case) if rule == "sampled" else 0
    about = (manifest.fingerprint, case.token_ids, rule, seed, writing.max_tokens)
    digest = hashlib.sha256(repr(about).encode()).hexdigest()[:20]
    return f"{case.group}-{case.number}-{rule}-{digest}.npz"


def _store(file: Path, answer: Answer) -> None:
    """Whole or not at all."""
    partial = file.with_name(f".{file.name}")
    with partial.open("wb") as opened:
        np.savez(opened, token_ids=np.array(answer.token_ids, np.int32), deep=answer.deep)
    os.replace(partial, file)


def _load(file: Path, case: Case, rule: str, writing: Writing) -> Text:
    with np.load(file, allow_pickle=False) as held:
        token_ids, deep = held["token_ids"].tolist(), held["deep"]
    seed = writing.seed_of(case)
    return Text(case, rule, seed, writing.max_tokens, tuple(token_ids), deep)
