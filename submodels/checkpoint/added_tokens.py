"""Tokens that other files of a tokenizer name beside `tokenizer.json`, as transformers adds them.

Fine-tunes often have their new tokens there only: in `added_tokens_decoder` of
`tokenizer_config.json`, in `added_tokens.json`, or as one that is named for a purpose. Without them
the end of a turn would be read as letters, and never come.

Source: `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__` of
transformers 5.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken

from submodels.bundle.model_files import ModelFiles
from submodels.checkpoint.special_tokens import (
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    named_special_tokens,
)
from submodels.errors import CheckpointError

ADDED_TOKENS_FILE = "added_tokens.json"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_FURTHER = ("extra_special_tokens", "additional_special_tokens")


def with_added_tokens(files: ModelFiles, vocab_size: int) -> str | None:
    """`tokenizer.json` with the tokens that the others name; None where it has them all.

    A token without a row in the embedding (`vocab_size`) is not added: it would be letters to the
    model as before. So pad tokens are often named.

    Raises:
        BundleError: a file cannot be read.
        CheckpointError: a file says another id of a token than it gets by being added.
    """
    text = files.text(TOKENIZER_FILE)
    if text is None:
        return None
    try:
        backend = tokenizers.Tokenizer.from_str(text)
        numbered = _numbered(files)
        wanted = [*_changed(backend, numbered), *_named(backend, files, numbered)]
    # The library raises plain exceptions, and values may be of any type.
    except Exception as error:
        raise CheckpointError(f"{files.folder}: its added tokens are not valid: {error}") from error
    added = False
    for token, said in wanted:
        known = backend.token_to_id(token.content)
        if known is None and backend.get_vocab_size() >= vocab_size:
            continue
        backend.add_tokens([token])
        came = backend.token_to_id(token.content)
        if known is None and said not in (None, came):
            raise CheckpointError(
                f"{files.folder}: expected the id {said} for the added token {token.content!r}, as "
                f"its files say, but {TOKENIZER_FILE} leaves {came} for it"
            )
        added = True
    return str(backend.to_str(pretty=True)) if added else None


_Wanted = tuple[AddedToken, int | None]
"""A token, and the id that a file says for it."""


def _numbered(files: ModelFiles) -> Mapping[int, AddedToken]:
    """Tokens by the ids that the files say."""
    config = files.json(TOKENIZER_CONFIG_FILE)
    decoder = config.get("added_tokens_decoder")
    if decoder is not None:
        return {int(index): _token(value) for index, value in sorted(decoder.items(), key=_index)}
    special = {*named_special_tokens(files).values(), *_further_texts(files)}
    return {
        index: AddedToken(text, normalized=text not in special, special=text in special)
        for text, index in sorted(files.json(ADDED_TOKENS_FILE).items(), key=lambda one: one[1])
    }


def _index(item: tuple[str, Any]) -> int:
    return int(item[0])


def _token(value: Mapping[str, Any]) -> AddedToken:
    flags = {name: bool(value[name]) for name in _FLAGS if name in value}
    return AddedToken(value["content"], **flags)


def _changed(
    backend: tokenizers.Tokenizer, numbered: Mapping[int, AddedToken]
) -> Iterable[_Wanted]:
    """Those that the tokenizer lacks, or has with other flags."""
    there = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    return [(token, index) for index, token in numbered.items() if repr(token) not in there]


def _named(
    backend: tokenizers.Tokenizer, files: ModelFiles, numbered: Mapping[int, AddedToken]
) -> Iterable[_Wanted]:
    """Those that have a name, or are listed as special, and are no added ones yet."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    known |= {token.content for token in numbered.values()}
    texts = dict.fromkeys([*named_special_tokens(files).values(), *_further_texts(files)])
    return [(AddedToken(text, special=True), None) for text in texts if text not in known]


def _further_texts(files: ModelFiles) -> list[str]:
    """Special tokens without a name."""
    config = files.json(TOKENIZER_CONFIG_FILE)
    sources = [config]
    if "added_tokens_decoder" not in config:
        sources.append(files.json(SPECIAL_TOKENS_FILE))
    listed: list[Any] = []
    for source in sources:
        for key in _FURTHER:
            value = source.get(key)
            # A mapping gives names to tokens: see `named_special_tokens`.
            listed += value if isinstance(value, list) else []
    texts = [value.get("content") if isinstance(value, dict) else value for value in listed]
    return [text for text in texts if isinstance(text, str)]
