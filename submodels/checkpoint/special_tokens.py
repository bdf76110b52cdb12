"""The special tokens that a tokenizer's own files name, as transformers reads them."""

from collections.abc import Mapping
from typing import Any

from submodels.bundle.model_files import ModelFiles
from submodels.errors import BundleError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"


def named_special_tokens(files: ModelFiles) -> dict[str, str]:
    """`bos_token`, `eos_token` and the like with their texts.

    tokenizer_config.json names them. special_tokens_map.json is of older checkpoints: it is read,
    and has precedence, where the former has no `added_tokens_decoder`. Names under
    `extra_special_tokens` or `model_specific_special_tokens` (mappings) count as well.

    Source: `PreTrainedTokenizerBase._from_pretrained` of transformers 5.

    Raises:
        BundleError: a file cannot be read.
    """
    config = files.json(TOKENIZER_CONFIG_FILE)
    tokens = _named(config)
    if "added_tokens_decoder" not in config:
        tokens |= _named(files.json(SPECIAL_TOKENS_FILE))
    return tokens


def tokenizer_eos_id(files: ModelFiles) -> int | None:
    """The id of the tokenizer's own end of text; None when it names none that it has.

    Raises:
        BundleError: a file cannot be read.
    """
    text = named_special_tokens(files).get("eos_token")
    return None if not text else _token_id(files, text)


def _named(config: Mapping[str, Any]) -> dict[str, str]:
    """Names that end in `_token`; values are strings, or objects with their content."""
    named = [(name, value) for name, value in config.items() if name.endswith("_token")]
    for key in ("model_specific_special_tokens", "extra_special_tokens"):
        further = config.get(key)
        named += further.items() if isinstance(further, dict) else []
    tokens = {}
    for name, value in named:
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            tokens[name] = content
    return tokens


def _token_id(files: ModelFiles, text: str) -> int | None:
    """The id of a token's text, without the tokenizer's library: added tokens, then vocabulary."""
    tokenizer = files.json(TOKENIZER_FILE)
    added = tokenizer.get("added_tokens") or []
    model = tokenizer.get("model") or {}
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    try:
        for token in added:
            if token["content"] == text:
                return int(token["id"])
        if isinstance(vocabulary, dict):
            found = vocabulary.get(text)
            return None if found is None else int(found)
        pieces = [piece[0] for piece in vocabulary or []]
        return pieces.index(text) if text in pieces else None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        path = files.folder / TOKENIZER_FILE
        raise BundleError(f"{path} is not a valid tokenizer: {error!r}") from error
