"""The checks of `hat verify`, one after another, each as a line with its details."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_runtime.text.chat_template import load_chat_template
from device_runtime.text.tokenizer import Tokenizer, load_tokenizer
from hat.errors import CommandError
from hat.progress import Bars
from hat.verify.compare import Reference, Text, distances
from hat.verify.prompts import REPETITIVE, EncodedPrompts, encode_prompts, read_prompts
from hat.verify.reference import UnsplitModel
from hat.verify.report import (
    Check,
    GreedyCase,
    ends_check,
    files_check,
    greedy_check,
    sampled_check,
)
from hat.verify.settings import VerifyOptions
from hat.verify.split_model import Questions, SplitAnswers, ask_split_model
from hat.verify.templates import template_check
from process.program.run import run_on_loop
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.errors import BundleError

_DRAWS_SEED = 7


@dataclass(frozen=True, slots=True)
class _Unsplit:
    references: list[Reference]
    stop_ids: frozenset[int]
    target: dict[Text, float]


def verify(options: VerifyOptions, bars: Bars) -> list[Check]:
    """Compare the split model with the unsplit one; the checks that were made.

    The unsplit model is gone from memory before the split one is loaded.

    Raises:
        CommandError: something is missing or cannot run.
    """
    files = _check_files(options.bundle)
    try:
        device = load_bundle(options.bundle, "device")
        load_bundle(options.bundle, "cloud")
    except BundleError:
        # The check of the files has said what is wrong.
        return [files]
    tokenizer = load_tokenizer(device.path)
    prompts = _prompts(options, device, tokenizer)
    sampled_prompt = tokenizer.encode(REPETITIVE)
    stop_ids = frozenset(device.manifest.eos_token_ids)
    questions = Questions(prompts.ids, sampled_prompt, stop_ids)
    unsplit = _ask_unsplit(options, questions, bars)
    gc.collect()
    split = _ask_split(options, questions, bars)
    ends = ends_check(unsplit.stop_ids, stop_ids, _named(tokenizer))
    template = _check_template(options.model, device.path)
    return [files, ends, template, *_compared(options, prompts, tokenizer, (unsplit, split))]


def _check_files(bundle: Path) -> Check:
    """Every file's SHA-256, and that both halves come from one split."""
    try:
        device = load_bundle(bundle, "device", verify=True).manifest
        cloud = load_bundle(bundle, "cloud", verify=True).manifest
    except BundleError as error:
        return files_check(str(error))
    if device.fingerprint != cloud.fingerprint:
        return files_check("the two bundles are of different models: their fingerprints differ")
    return files_check(None)


def _prompts(options: VerifyOptions, device: Bundle, tokenizer: Tokenizer) -> EncodedPrompts:
    texts = read_prompts(options.prompts)[: options.num_prompts]
    room = device.manifest.shape.max_context_tokens - options.max_tokens
    prompts = encode_prompts(texts, tokenizer.encode, room)
    if not prompts.ids:
        raise CommandError(
            f"no prompt leaves room for {options.max_tokens} tokens in the model's context of "
            f"{device.manifest.shape.max_context_tokens}; --max-tokens asks for fewer"
        )
    return prompts


def _ask_unsplit(options: VerifyOptions, questions: Questions, bars: Bars) -> _Unsplit:
    num_tokens = options.sampled.num_tokens if options.sampled.num_draws else 0
    bars.begin("unsplit model", len(questions.prompts) + num_tokens)
    try:
        model = UnsplitModel(options.model, options.dtype)
    except (OSError, ValueError) as error:
        raise CommandError(f"transformers cannot load {options.model}: {error}") from error
    references = []
    for prompt in questions.prompts:
        references.append(model.greedy(prompt, options.max_tokens))
        bars.advance()
    target: dict[Text, float] = {}
    if num_tokens:
        target = model.target(questions.sampled_prompt, options.sampled, bars.advance)
    return _Unsplit(references, model.stop_ids, target)


def _ask_split(options: VerifyOptions, questions: Questions, bars: Bars) -> SplitAnswers:
    bars.begin("split model", len(questions.prompts) + options.sampled.num_draws)
    return run_on_loop(ask_split_model(options, questions, bars.advance))


def _check_template(model: Path, device: Path) -> Check:
    template = load_chat_template(device)
    try:
        return template_check(model, template)
    finally:
        template.close()


def _named(tokenizer: Tokenizer) -> Callable[[int], str]:
    def name(token_id: int) -> str:
        return f"{token_id} ({tokenizer.token_bytes(token_id).decode(errors='replace')})"

    return name


def _compared(
    options: VerifyOptions,
    prompts: EncodedPrompts,
    tokenizer: Tokenizer,
    answers: tuple[_Unsplit, SplitAnswers],
) -> list[Check]:
    unsplit, split = answers
    cases = [
        GreedyCase(number, len(ids), reference, came)
        for number, ids, reference, came in zip(
            prompts.numbers, prompts.ids, unsplit.references, split.continuations, strict=True
        )
    ]
    decode, is_exact = tokenizer.decode_continuation, options.is_exact
    checks = greedy_check(cases, prompts.num_too_long, decode, is_exact)
    if options.sampled.num_draws:
        generator = np.random.default_rng(_DRAWS_SEED)
        found = distances(unsplit.target, split.draws, generator)
        checks.append(sampled_check(found, len(unsplit.target), is_exact))
    return checks
