"""What the device needs besides weights: the tokenizer, its template, and the special ids."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submodels.bundle.model_files import ModelFiles
from submodels.checkpoint.added_tokens import ADDED_TOKENS_FILE, with_added_tokens
from submodels.checkpoint.checkpoint import read_json
from submodels.checkpoint.named_templates import folder_template
from submodels.checkpoint.special_tokens import (
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    tokenizer_eos_id,
)
from submodels.errors import BundleError, CheckpointError

GENERATION_CONFIG_FILE = "generation_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_COPIED_FILES = (
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    ADDED_TOKENS_FILE,
    TEMPLATE_FILE,
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
TOKENIZER_FILES = (*_COPIED_FILES, "tokenizer.model")
"""What a tokenizer may consist of; the last is of an older format, and is converted."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids that begin and end a sequence, as far as the model names them."""

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


def copy_tokenizer(source: Path, device_folder: Path, vocab_size: int) -> None:
    """Copy the tokenizer's files; make `tokenizer.json` from an older format where it is absent.

    Tokens that only other files name are added to it, as far as the model has rows for them.
    Templates of a folder become one.

    Raises:
        CheckpointError: there is no tokenizer, none that can be converted, or one whose files
            contradict each other.
    """
    for name in (*_COPIED_FILES, GENERATION_CONFIG_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, device_folder / name)
    template = folder_template(source, TEMPLATE_FILE)
    if template is not None:
        (device_folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    if not (device_folder / TOKENIZER_FILE).is_file():
        _convert(source, device_folder / TOKENIZER_FILE)
    try:
        whole = with_added_tokens(ModelFiles(device_folder), vocab_size)
    except BundleError as error:
        raise CheckpointError(str(error)) from error
    if whole is not None:
        (device_folder / TOKENIZER_FILE).write_text(whole, encoding="utf-8")


def special_tokens(source: Path, config: Mapping[str, Any], vocab_size: int) -> SpecialTokens:
    """The special ids that the model's files name.

    generation_config.json has precedence over config.json. The tokenizer's own end of text ends
    an answer as well: of a fine-tune, often only its files were changed. So has vLLM it. Ids beyond
    the vocabulary, which transformers lets pass, never come and are left out.

    Raises:
        CheckpointError: something that is no id, ends of which none can come, or a file that cannot
            be read.
    """
    path = source / GENERATION_CONFIG_FILE
    generation = read_json(path) if path.is_file() else {}
    bos = _ids("bos_token_id", generation, config)
    named = _ids("eos_token_id", generation, config)
    try:
        own = tokenizer_eos_id(ModelFiles(source))
    except BundleError as error:
        raise CheckpointError(str(error)) from error
    ends = named if own is None else (*named, own)
    eos = tuple(dict.fromkeys(token for token in ends if 0 <= token < vocab_size))
    if named and not eos:
        raise CheckpointError(
            f"eos_token_id: expected ids in [0, {vocab_size}), got {list(named)}: no token would "
            "end an answer"
        )
    bos = tuple(token for token in bos if 0 <= token < vocab_size)
    return SpecialTokens(bos[0] if bos else None, eos)


def _ids(key: str, generation: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, ...]:
    value = generation.get(key)
    value = config.get(key) if value is None else value
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool):
            raise CheckpointError(f"{key}: expected an id or a list of ids, got {value!r:.80}")
    return tuple(ids)


def _convert(source: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        # transformers raises whatever the tokenizer's own libraries raise.
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
            tokenizer.save_pretrained(folder)
        except Exception as error:
            raise CheckpointError(
                f"{source} has no {TOKENIZER_FILE}, and none can be made from what is there: "
                f"{error}"
            ) from error
        made = Path(folder, TOKENIZER_FILE)
        if not made.is_file():
            raise CheckpointError(
                f"{source} has no {TOKENIZER_FILE}, and its tokenizer has no fast form"
            )
        shutil.copyfile(made, target)
