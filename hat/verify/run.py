"""The checks of `hat verify`, one after another, each as a line with its details."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from device_runtime.text.chat_template import ChatTemplate, load_chat_template
from device_runtime.text.content_forms import Message, in_form
from device_runtime.text.tokenizer import Tokenizer, load_tokenizer
from hat.errors import CommandError
from hat.progress import Bars
from hat.verify.compare import Reference, Text, distances
from hat.verify.conversations import OwnAnswer, questions_for, text_check
from hat.verify.prompts import REPETITIVE, Prompt, encode_prompts, read_prompts
from hat.verify.reference import UnsplitModel
from hat.verify.report import Check, GreedyCase, ends_check, greedy_check, sampled_check
from hat.verify.settings import DRAWN_TOKENS, VerifyOptions
from hat.verify.split_model import Questions, ask_split_model
from hat.verify.templates import template_check
from process.program.run import run_on_loop
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.fingerprint import middle_fingerprint_of
from submodels.errors import BundleError

_DRAWS_SEED = 7


def verify(options: VerifyOptions, bars: Bars) -> list[Check]:
    """Compare the split model with the unsplit one; the checks that were made.

    The unsplit model is gone from memory before the split one is loaded.

    Raises:
        CommandError: something is missing or cannot run.
    """
    files = check_files(options.bundle, options.bundle_key)
    if files.verdict == "FAILED":
        return [files]
    device = load_bundle(options.bundle, "device")
    tokenizer = load_tokenizer(device.path)
    texts = read_prompts(options.prompts)[: options.num_prompts]
    prompts = _fitting(texts, options, device, tokenizer)
    stop_ids = frozenset(device.manifest.eos_token_ids)
    questions = Questions(
        [prompt.ids for prompt in prompts], tokenizer.encode(REPETITIVE), stop_ids
    )
    template = load_chat_template(device.path)
    try:
        unsplit = _ask_unsplit(options, questions, device, template, bars)
        questions = replace(questions, texts=[own.question for own in unsplit.texts])
        templates = template_check(options.model, template)
    finally:
        template.close()
    gc.collect()
    bars.begin("split model", len(prompts) + options.num_draws)
    split = run_on_loop(ask_split_model(options, questions, bars.advance))
    triples = zip(prompts, unsplit.references, split.continuations, strict=True)
    cases = [GreedyCase(prompt, reference, came) for prompt, reference, came in triples]
    num_too_long = len(texts) - len(prompts)
    checks = [
        files,
        ends_check(unsplit.stop_ids, stop_ids, _named(tokenizer)),
        templates,
        *greedy_check(cases, num_too_long, tokenizer.decode_continuation, options.is_exact),
    ]
    if unsplit.texts:
        told = list(zip(unsplit.texts, split.told, strict=True))
        checks.append(text_check(told, options.is_exact))
    if options.num_draws:
        generator = np.random.default_rng(_DRAWS_SEED)
        found = distances(unsplit.target, split.draws, generator)
        checks.append(sampled_check(found, len(unsplit.target), options.is_exact))
    return checks


def check_files(bundle: Path, key: str | None) -> Check:
    """Every file's SHA-256, who signed them, and that the device's half is made for the cloud's."""
    try:
        device = load_bundle(bundle, "device", verify=True, key=key).manifest
        cloud = load_bundle(bundle, "cloud", verify=True, key=key).manifest
    except BundleError as error:
        return Check("files", "FAILED", str(error))
    if middle_fingerprint_of(device) != middle_fingerprint_of(cloud):
        problem = "the device's bundle is for other middle layers: their fingerprints differ"
        return Check("files", "FAILED", problem)
    signed = "" if key is None else f", and signed by {key}"
    return Check("files", "ok", f"all as they were split, by SHA-256{signed}")


def _fitting(
    texts: Sequence[str], options: VerifyOptions, device: Bundle, tokenizer: Tokenizer
) -> list[Prompt]:
    context = device.manifest.shape.max_context_tokens
    prompts = encode_prompts(texts, tokenizer.encode, context - options.max_tokens)
    if not prompts:
        raise CommandError(
            f"no prompt leaves room for {options.max_tokens} tokens in the model's context of "
            f"{context}; --max-tokens asks for fewer"
        )
    return prompts


@dataclass(frozen=True, slots=True)
class _UnsplitAnswers:
    """Greedy continuations, what ends a text, and the probability of each short text."""

    references: list[Reference]
    stop_ids: frozenset[int]
    target: dict[Text, float]
    texts: list[OwnAnswer]


def _ask_unsplit(
    options: VerifyOptions,
    questions: Questions,
    device: Bundle,
    template: ChatTemplate,
    bars: Bars,
) -> _UnsplitAnswers:
    num_tokens = DRAWN_TOKENS if options.num_draws else 0
    bars.begin("unsplit model", len(questions.prompts) + num_tokens)
    try:
        is_long = "long_factor.0" in device.manifest.rope_parameters
        model = UnsplitModel(options.model, options.dtype, is_long)
    except (OSError, ValueError, NotImplementedError) as error:
        raise CommandError(f"transformers cannot load {options.model}: {error}") from error
    references = []
    for prompt in questions.prompts:
        references.append(model.greedy(prompt, options.max_tokens))
        bars.advance()
    target = model.target(questions.sampled_prompt, bars.advance) if num_tokens else {}
    texts = _own_texts(model, options, device.manifest.shape.max_context_tokens, template)
    return _UnsplitAnswers(references, model.stop_ids, target, texts)


def _own_texts(
    model: UnsplitModel, options: VerifyOptions, context: int, template: ChatTemplate
) -> list[OwnAnswer]:
    """transformers' own answers to whole questions, as far as the context holds both."""
    if model.has_template is template.is_plain:
        # The check of templates says so.
        return []

    def shaped(messages: Sequence[Message]) -> Sequence[Message]:
        return [in_form(m, template.forms.get(m["role"], "text")) for m in messages]

    asked = questions_for(model.has_template)
    answers = [model.own.answer(question, shaped, options.max_tokens) for question in asked]
    room = context - options.max_tokens
    return [own for own in answers if own is not None and len(own.prompt_ids) <= room]


def _named(tokenizer: Tokenizer) -> Callable[[int], str]:
    def name(token_id: int) -> str:
        return f"{token_id} ({tokenizer.token_bytes(token_id).decode(errors='replace')})"

    return name
