"""What a training works on: windows of tokens, and prompts that are kept out for calibration."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adapters.data.conversations import Conversation, read_conversations
from adapters.data.corpus import Corpus, CorpusError, Share, Tokens, collect_windows
from adapters.data.states import max_tokens_in
from adapters.measuring.evaluate import held_out_prompts
from adapters.options import TrainOptions
from submodels.bundle.bundle import Bundle


def training_material(
    options: TrainOptions, bundle: Bundle
) -> tuple[list[Tokens], list[Sequence[int]]]:
    """The windows to train on and the prompts to calibrate on.

    Raises:
        CorpusError: a file cannot be read, or there is too little of either.
    """
    if options.conversations is not None:
        return _of_conversations(options, bundle)
    trained, held_out = _corpora(options, bundle)
    prompts = held_out_prompts(held_out, options.calibration)
    return _windows(options, trained), prompts


def _of_conversations(
    options: TrainOptions, bundle: Bundle
) -> tuple[list[Tokens], list[Sequence[int]]]:
    assert options.conversations is not None
    shape = bundle.manifest.shape
    read = read_conversations(options.conversations, shape.vocab_size)
    longest = shape.max_context_tokens
    windows = [_tokens(one, longest) for i, one in enumerate(read) if Share.TRAINED.holds(i)]
    held_out = [one for i, one in enumerate(read) if Share.HELD_OUT.holds(i)]
    room = longest - options.calibration.continuation_tokens
    prompts = [_prompt(one) for one in held_out if one.num_prompt_tokens <= room]
    if not windows or not prompts:
        raise CorpusError(
            f"{options.conversations}: expected 20 conversations or more, every twentieth of "
            f"which is kept out, got {len(read)}"
        )
    num_tokens = np.cumsum([len(window) for window in windows])
    fit = int((num_tokens <= max_tokens_in(options.max_state_bytes, shape.hidden_size)).sum())
    return windows[: max(1, fit)], prompts[: options.calibration.num_prompts]


def _tokens(conversation: Conversation, longest: int) -> Tokens:
    return np.array(conversation.token_ids[:longest], np.int32)


def _prompt(conversation: Conversation) -> Sequence[int]:
    return conversation.token_ids[: conversation.num_prompt_tokens]


def _corpora(options: TrainOptions, bundle: Bundle) -> tuple[Corpus, Corpus]:
    """What is trained on, and what is not."""
    if options.held_out:
        return Corpus(bundle, options.text), Corpus(bundle, options.held_out)
    return (
        Corpus(bundle, options.text, Share.TRAINED),
        Corpus(bundle, options.text, Share.HELD_OUT),
    )


def _windows(options: TrainOptions, corpus: Corpus) -> list[Tokens]:
    """Windows within the model's context, and few enough for the file of states."""
    shape = corpus.bundle.manifest.shape
    longest = min(options.windows.max_tokens, shape.max_context_tokens)
    max_tokens = max_tokens_in(options.max_state_bytes, shape.hidden_size)
    return collect_windows(corpus, replace(options.windows, max_tokens=longest), max_tokens)
