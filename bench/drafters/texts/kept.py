"""Texts that a model wrote itself, kept in a folder: what drafters are replayed along."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.data.chains import read_text
from adapters.data.choosing import Choice
from adapters.data.whole_model import WholeModel
from adapters.writing.answers import Ending, answers
from bench.drafters.texts.cases import Case
from bench.drafters.texts.choosing import choice_of
from bench.drafters.texts.scoring import Manner, Writer
from submodels.manifest import Manifest

_BATCH_SLOTS = 20
"""Answers that are written side by side."""


@dataclass(frozen=True, slots=True)
class Writing:
    """By which rule answers are written, how long at most, and from which seed."""

    rules: tuple[str, ...]
    max_tokens: int = 100
    seed: int = 0
    repetition_penalty: float = 1.0
    """1 is none."""

    def choice(self, case: Case, rule: str) -> Choice:
        """By which the answer to a prompt is written."""
        if self.repetition_penalty == 1.0:
            return choice_of(rule, self.seed_of(case))
        return Writer(Manner(rule, self.seed_of(case), self.repetition_penalty), case.token_ids)

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
    model: WholeModel,
    cases: Sequence[Case],
    writing: Writing,
    folder: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Text]:
    """The answers to all prompts by all rules; those that `folder` lacks are written there first.

    A text's file is named after all that it follows from: the model's fingerprint, the prompt's
    tokens, rule, seed and length. `progress` gets a line now and then.

    Raises:
        ValueError: the device has output layers; then it takes more deep rows than are kept.
        OSError: a file cannot be read or written.
    """
    if model.output_layers:
        raise ValueError(
            f"expected a split without output layers on the device, got {len(model.output_layers)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    manifest = model.manifest
    wanted = [(case, rule) for case in cases for rule in writing.rules]
    files = {place: folder / _file_name(manifest, *place, writing) for place in wanted}
    missing = [place for place in wanted if not files[place].is_file()]
    num_done = 0
    ending = Ending(writing.max_tokens, stop_token_ids(model))
    for batch in _batches(missing):
        prompts = [case.token_ids for case, _ in batch]
        choices = [writing.choice(case, rule) for case, rule in batch]
        written = answers(model, prompts, choices, ending)
        for place, prompt, answer in zip(batch, prompts, written, strict=True):
            _store(files[place], model, prompt, answer)
            num_done += 1
        progress(f"{num_done} of {len(missing)} answers written")
    return [_load(files[place], *place, writing) for place in wanted]


def stop_token_ids(model: WholeModel) -> frozenset[int]:
    """Tokens that end an answer."""
    return frozenset(model.manifest.eos_token_ids)


def _batches(missing: list[tuple[Case, str]]) -> Iterator[list[tuple[Case, str]]]:
    """Prompts of about the same length together."""
    by_length = sorted(missing, key=lambda place: len(place[0].token_ids))
    for start in range(0, len(by_length), _BATCH_SLOTS):
        yield by_length[start : start + _BATCH_SLOTS]


def _file_name(manifest: Manifest, case: Case, rule: str, writing: Writing) -> str:
    seed = writing.seed_of(case) if rule == "sampled" else 0
    penalty = () if writing.repetition_penalty == 1.0 else (writing.repetition_penalty,)
    about = (manifest.fingerprint, case.token_ids, rule, seed, writing.max_tokens, *penalty)
    digest = hashlib.sha256(repr(about).encode()).hexdigest()[:20]
    return f"{case.group}-{case.number}-{rule}-{digest}.npz"


def _store(file: Path, model: WholeModel, prompt: Sequence[int], answer: Sequence[int]) -> None:
    """Whole or not at all."""
    deep = read_text(model, [*prompt, *answer], len(prompt)).deep[len(prompt) - 1 : -1]
    partial = file.with_name(f".{file.name}")
    with partial.open("wb") as opened:
        np.savez(opened, token_ids=np.array(answer, np.int32), deep=deep.numpy())
    os.replace(partial, file)


def _load(file: Path, case: Case, rule: str, writing: Writing) -> Text:
    with np.load(file, allow_pickle=False) as held:
        token_ids, deep = held["token_ids"].tolist(), held["deep"]
    seed = writing.seed_of(case)
    return Text(case, rule, seed, writing.max_tokens, tuple(token_ids), deep)
