"""The tokenizer of a GGUF file as the files that a Hugging Face checkpoint would have.

A file holds the vocabulary and the merges (or the scores they follow from), and the kind of
tokenizer by name. What the kinds do to text is written out here, as `transformers` does it.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from submodels.checkpoint.gguf.sentencepiece import (
    GEMMA4,
    SENTENCEPIECE,
    sentencepiece,
    takes_spaces,
    with_spaces_as_marks,
)
from submodels.checkpoint.gguf.vocabulary import TokenType, Vocabulary
from submodels.checkpoint.gguf.words import SPLITTINGS, TextSplitting
from submodels.checkpoint.special_tokens import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from submodels.checkpoint.tokenizer_files import GENERATION_CONFIG_FILE
from submodels.errors import CheckpointError, UnsupportedModelError

_TEMPLATE_FILE = "chat_template.jinja"

_SPECIAL_NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
# llama.cpp's names for how the model is best sampled.
_SAMPLING = {"temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}


def write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """Write the tokenizer, its configuration, the chat template and the generation settings.

    Raises:
        UnsupportedModelError: a kind of tokenizer that is not known.
        CheckpointError: merges or scores are missing or do not fit the tokens.
    """
    vocabulary = with_spaces_as_marks(vocabulary)
    begins = _begins(vocabulary)
    tokenizer = _tokenizer(vocabulary)
    for kind, is_special in ((TokenType.CONTROL, True), (TokenType.USER_DEFINED, False)):
        texts = vocabulary.of_type(kind)
        add = tokenizer.add_special_tokens if is_special else tokenizer.add_tokens
        add([_added(text, is_special, takes_spaces(vocabulary, text)) for text in texts])
    tokenizer.post_processor = _framing(vocabulary, begins)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    _write_json(folder / TOKENIZER_CONFIG_FILE, _configuration(vocabulary, begins))
    _write_json(folder / GENERATION_CONFIG_FILE, _generation(vocabulary))
    if vocabulary.chat_template is not None:
        (folder / _TEMPLATE_FILE).write_text(vocabulary.chat_template, encoding="utf-8")


def _tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    kind = vocabulary.get("model")
    try:
        if kind == "gpt2":
            return _byte_level(vocabulary, _splitting(vocabulary))
        if kind in SENTENCEPIECE:
            return sentencepiece(vocabulary)
    except Exception as error:  # the library raises bare Exception
        if isinstance(error, CheckpointError | UnsupportedModelError):
            raise
        raise CheckpointError(
            f"{vocabulary.file.path}: its tokenizer is not valid: {error}"
        ) from error
    raise UnsupportedModelError(
        f"{vocabulary.file.path}: tokenizer {kind!r:.60} is not supported; supported: gpt2, "
        f"{', '.join(SENTENCEPIECE)}"
    )


def _splitting(vocabulary: Vocabulary) -> TextSplitting:
    name = vocabulary.get("pre", "default")
    if not isinstance(name, str) or name not in SPLITTINGS:
        raise UnsupportedModelError(
            f"{vocabulary.file.path}: how its tokenizer cuts text, {name!r:.60}, is not known; "
            f"known: {', '.join(SPLITTINGS)}"
        )
    return SPLITTINGS[name]


def _byte_level(vocabulary: Vocabulary, splitting: TextSplitting) -> Tokenizer:
    """Merges of bytes, written in GPT-2's alphabet."""
    merges = vocabulary.get("merges")
    if not isinstance(merges, list):
        raise CheckpointError(f"{vocabulary.file.path} holds no merges")
    tokenizer = Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(vocabulary.tokens)},
            [_pair(merge) for merge in merges],
            ignore_merges=splitting.whole_words,
        )
    )
    steps: list[Any] = []
    if splitting.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if splitting.expression is not None:
        steps.append(pre_tokenizers.Split(Regex(splitting.expression), behavior="isolated"))
    is_gpt2 = splitting.expression is None
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=is_gpt2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if splitting.composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _begins(vocabulary: Vocabulary) -> bool:
    """Whether a text begins with a token for that: as the file says, else as its kind does."""
    kind = vocabulary.get("model")
    if kind == GEMMA4:
        # The file says so for llama.cpp, but its own tokenizer leaves it to the chat template.
        return False
    is_sentencepiece = kind in SENTENCEPIECE
    default = is_sentencepiece or _splitting(vocabulary).begins
    return (
        bool(vocabulary.get("add_bos_token", default)) and vocabulary.special_id("bos") is not None
    )


def _framing(vocabulary: Vocabulary, begins: bool) -> processors.TemplateProcessing:
    """What is put before and behind a text."""
    bos, eos = vocabulary.special_id("bos"), vocabulary.special_id("eos")
    before = [bos] if begins and bos is not None else []
    behind = [eos] if vocabulary.get("add_eos_token") and eos is not None else []
    names = {token_id: vocabulary.tokens[token_id] for token_id in (*before, *behind)}
    return processors.TemplateProcessing(
        single=[*(names[i] for i in before), "$A", *(names[i] for i in behind)],
        special_tokens=[(text, token_id) for token_id, text in names.items()],
    )


def _added(text: str, is_special: bool, takes_spaces_behind: bool) -> AddedToken:
    return AddedToken(text, special=is_special, normalized=False, rstrip=takes_spaces_behind)


def _configuration(vocabulary: Vocabulary, begins: bool) -> dict[str, Any]:
    """tokenizer_config.json."""
    named = {
        f"{name}_token": vocabulary.tokens[token_id]
        for own_name, name in _SPECIAL_NAMES.items()
        if (token_id := vocabulary.special_id(own_name)) is not None
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": begins,
        "add_eos_token": bool(vocabulary.get("add_eos_token", False)),
        "clean_up_tokenization_spaces": False,
        **named,
    }


def _generation(vocabulary: Vocabulary) -> dict[str, Any]:
    """generation_config.json: what begins and ends a text, and how the model is best sampled."""
    settings = vocabulary.file.settings
    sampling = {
        name: settings[f"general.sampling.{own_name}"]
        for own_name, name in _SAMPLING.items()
        if f"general.sampling.{own_name}" in settings
    }
    if sampling:
        sampling["do_sample"] = True
    return {
        "bos_token_id": vocabulary.special_id("bos"),
        "eos_token_id": list(vocabulary.end_ids),
        **sampling,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
