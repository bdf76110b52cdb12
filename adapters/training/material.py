"""What a training works on: texts to learn from, and others that are kept out to be measured on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.data.conversations import Conversation, read_conversations
from adapters.data.corpus import Corpus, CorpusError, Share, Tokens, collect_windows
from adapters.data.sample import Sample
from adapters.measuring.evaluate import held_out_prompts
from adapters.options import TrainOptions
from submodels.bundle.bundle import Bundle

# To look at now and then while training.
_LOOKED_AT = 16
_MAX_TOKENS = 1 << 27
"""Of a corpus: 512 MiB of tokens."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a training works on. In the end drafters are measured on `greedy`, which the target
    wrote, or where there is none on what it writes after `prompts`."""

    trained: list[Sample]
    judged: list[Sample]
    """What is kept out, of which the draft vocabulary has to cover the answers."""
    held_out: list[Sample]
    """Of that, what is looked at while training."""
    greedy: list[Sample]
    prompts: list[Sequence[int]]


def training_material(options: TrainOptions, bundle: Bundle) -> Material:
    """The texts of the options, cut to the model's context.

    Raises:
        CorpusError: a file cannot be read, or there is too little to train or to measure on.
    """
    if options.conversations is not None:
        return _of_conversations(options, bundle)
    trained, held_out = _corpora(options, bundle)
    prompts = held_out_prompts(held_out, options.calibration)
    judged = _samples(_windows(options, held_out, _LOOKED_AT * options.windows.max_tokens))
    windows = _windows(options, trained, _MAX_TOKENS)
    return Material(_samples(windows), judged, judged[:_LOOKED_AT], [], prompts)


def _of_conversations(options: TrainOptions, bundle: Bundle) -> Material:
    assert options.conversations is not None
    shape = bundle.manifest.shape
    read = read_conversations(options.conversations, shape.vocab_size)
    longest = shape.max_context_tokens
    held_out = [one for i, one in enumerate(read) if Share.HELD_OUT.holds(i)]
    room = longest - options.calibration.continuation_tokens
    prompts = [_prompt(one) for one in held_out if one.num_prompt_tokens <= room]
    trained = [_sample(one).cut(longest) for i, one in enumerate(read) if Share.TRAINED.holds(i)]
    trained = [sample for sample in trained if sample.scored().any()]
    if not trained or not prompts:
        raise CorpusError(
            f"{options.conversations}: expected 20 conversations or more, every twentieth of "
            f"which is kept out, got {len(read)}"
        )
    # Texts that end within one draft say nothing of it.
    least = options.calibration.max_draft_tokens + 2
    first = [_first_answer(one) for one in held_out if one.temperature == 0]
    greedy = [one for one in first if one.scored().sum() >= least and len(one.token_ids) <= longest]
    num_prompts = options.calibration.num_prompts
    return Material(
        trained=trained,
        judged=[_sample(one).cut(longest) for one in held_out],
        held_out=[_sample(one).cut(longest) for one in held_out[:_LOOKED_AT]],
        greedy=greedy[:num_prompts],
        prompts=prompts[:num_prompts],
    )


def _sample(conversation: Conversation) -> Sample:
    return Sample(np.array(conversation.token_ids, np.int32), conversation.ranges)


def _first_answer(conversation: Conversation) -> Sample:
    (start, end), *_ = conversation.ranges
    return Sample(np.array(conversation.token_ids[:end], np.int32), ((start, end),))


def _prompt(conversation: Conversation) -> Sequence[int]:
    return conversation.token_ids[: conversation.num_prompt_tokens]


def _samples(windows: Sequence[Tokens]) -> list[Sample]:
    return [Sample(window, ((0, len(window)),)) for window in windows]


def _corpora(options: TrainOptions, bundle: Bundle) -> tuple[Corpus, Corpus]:
    """What is trained on, and what is not."""
    if options.held_out:
        return Corpus(bundle, options.text), Corpus(bundle, options.held_out)
    return (
        Corpus(bundle, options.text, Share.TRAINED),
        Corpus(bundle, options.text, Share.HELD_OUT),
    )


def _windows(options: TrainOptions, corpus: Corpus, max_tokens: int) -> list[Tokens]:
    """Windows within the model's context."""
    shape = corpus.bundle.manifest.shape
    longest = min(options.windows.max_tokens, shape.max_context_tokens)
    return collect_windows(corpus, replace(options.windows, max_tokens=longest), max_tokens)
