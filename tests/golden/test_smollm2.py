"""A real model from a GGUF file says what transformers says of the same file."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from device_runtime.text.chat_template import load_chat_template
from tests.support.many_languages import NUM_LINES, ids_of, lines, theirs
from tests.support.reference import Greedy, first_difference, greedy
from tests.support.smollm2 import smollm2_in
from tests.support.split_models import SplitModel, split

# Four minutes of a machine that does other things as well.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MAX_TOKENS = 32
QUESTIONS = (
    "What is the capital of France?",
    "Name three colors.",
    "Write a haiku about rain.",
    "What is 17 + 25? Explain in one sentence.",
    "¿Qué es un pingüino?",
    "Give me a Python function that reverses a string.",
)


@dataclass(frozen=True, slots=True)
class Real:
    """The file, its split model, and what transformers makes of questions."""

    path: Path
    out: Path
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[Greedy, ...]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    folder = tmp_path_factory.mktemp("smollm2")
    path = smollm2_in(folder)
    split(path, folder / "out", 2)
    where = {"pretrained_model_name_or_path": folder, "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    prompts = tuple(
        tuple(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True
            )["input_ids"]
        )
        for question in QUESTIONS
    )
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    answers = tuple(greedy(model, prompt, MAX_TOKENS) for prompt in prompts)
    del model
    gc.collect()
    return Real(path, folder / "out", prompts, answers)


def _answer(parts: SplitModel, prompt: Sequence[int]) -> list[int]:
    ends = parts.device.manifest.eos_token_ids
    ids: list[int] = []
    logits = parts.logits(prompt, 0)
    while True:
        ids.append(int(logits[-1].argmax()))
        if len(ids) == MAX_TOKENS or ids[-1] in ends:
            return ids
        logits = parts.logits(ids[-1:], len(prompt) + len(ids) - 1)


def test_greedy_ids_are_those_of_transformers(real: Real) -> None:
    parts = SplitModel(real.out)
    for prompt, expected in zip(real.prompts, real.answers, strict=True):
        came = _answer(parts, prompt)
        difference = first_difference(expected, came)
        assert difference is None or difference.is_tie, (difference, expected.ids, came)


def test_it_knows_the_capital_of_france(real: Real) -> None:
    tokenizer = Tokenizer.from_file(str(real.out / "device" / "tokenizer.json"))
    assert "Paris" in tokenizer.decode(list(real.answers[0].ids))


def test_tokens_are_those_of_transformers(real: Real) -> None:
    tokenizer = Tokenizer.from_file(str(real.out / "device" / "tokenizer.json"))
    came = ids_of(tokenizer)
    assert came == theirs(real.path, digits_apart=True)
    # Without that correction it joins some numbers, which this model reads apart.
    plain = theirs(real.path)
    has_numbers = [any(map(str.isnumeric, line)) for line in lines()]
    pairs = zip(came, plain, has_numbers, strict=True)
    assert all(ours == other for ours, other, is_told_apart in pairs if not is_told_apart)
    assert has_numbers.count(False) > NUM_LINES // 4


def test_the_chat_template_and_the_end_of_text_are_those_of_transformers(real: Real) -> None:
    template = load_chat_template(real.out / "device")
    reference = AutoTokenizer.from_pretrained(real.path.parent, gguf_file=real.path.name)
    messages = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": " hi\n"}]
    try:
        came = template.render(messages).text
    finally:
        template.close()
    assert came == reference.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    manifest = SplitModel(real.out).device.manifest
    assert manifest.eos_token_ids == (reference.eos_token_id,)
