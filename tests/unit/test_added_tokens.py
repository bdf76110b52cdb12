"""Tokens that stand beside `tokenizer.json`: the ids are those that transformers makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from device_runtime.text.tokenizer import load_tokenizer
from submodels.checkpoint.tokenizer_files import SpecialTokens, copy_tokenizer, special_tokens
from submodels.errors import CheckpointError
from tests.support.tokenizers import byte_level_backend

FIRST = byte_level_backend().get_vocab_size()
"""The id of the first token that is added."""
VOCAB_SIZE = FIRST + 8
MARK = "<|im_end|>"
TEXTS = (f"a {MARK}b", f"{MARK}{MARK} x", "<|begin|> y <|end|>", "the <pad>", " fox", "<own> q")
END = {"content": MARK, "special": True, "normalized": False}
STRIPPING = {"content": "<|end|>", "special": True, "normalized": False, "lstrip": True}


def checkpoint(folder: Path, **files: Any) -> Path:
    """A folder with a tokenizer that lacks the mark, and these files."""
    folder.mkdir()
    byte_level_backend().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **files.pop("tokenizer_config", {})}
    for name, content in {"tokenizer_config": config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def copied(source: Path, vocab_size: int = VOCAB_SIZE) -> Path:
    target = source.parent / "device"
    target.mkdir()
    copy_tokenizer(source, target, vocab_size)
    return target


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": MARK}},
        {"tokenizer_config": {"added_tokens_decoder": {str(FIRST): END}}},
        {"tokenizer_config": {"added_tokens_decoder": {"1": STRIPPING}}},
        {"tokenizer_config": {"additional_special_tokens": [MARK]}},
        {"tokenizer_config": {"extra_special_tokens": {"own_token": "<own>"}}},
        {"tokenizer_config": {"model_specific_special_tokens": {"own_token": "<own>"}}},
        {"tokenizer_config": {"eos_token": "<|end|>", "pad_token": "<pad>"}},
        {"tokenizer_config": {"eos_token": "fox"}},
        {"added_tokens": {MARK: FIRST + 1, "<own>": FIRST}},
        {"added_tokens": {MARK: FIRST}, "tokenizer_config": {"eos_token": MARK}},
        {"special_tokens_map": {"eos_token": MARK, "additional_special_tokens": ["<own>"]}},
        {
            "tokenizer_config": {"added_tokens_decoder": {}},
            "special_tokens_map": {"eos_token": MARK},
            "added_tokens": {"<own>": FIRST},
        },
    ],
    ids=str,
)
def test_what_other_files_add_is_added_as_transformers_adds_it(
    tmp_path: Path, files: dict[str, Any]
) -> None:
    source = checkpoint(tmp_path / "model", **files)
    expected, came = AutoTokenizer.from_pretrained(source), load_tokenizer(copied(source))
    for text in TEXTS:
        ids = expected(text)["input_ids"]
        assert came.encode(text) == ids, text
        assert came.decode(ids) == expected.decode(ids, skip_special_tokens=True)


def test_an_end_that_only_the_configuration_names_ends_an_answer(tmp_path: Path) -> None:
    """As a fine-tune has it whose embedding grew and whose tokenizer.json did not."""
    source = checkpoint(tmp_path / "model", tokenizer_config={"eos_token": MARK})
    assert special_tokens(copied(source), {}, VOCAB_SIZE) == SpecialTokens(None, (FIRST,))


def test_a_token_that_the_model_has_no_row_for_stays_text(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", tokenizer_config={"pad_token": "<pad>"})
    assert max(load_tokenizer(copied(source, FIRST)).encode("the <pad>")) < FIRST


def test_a_tokenizer_that_has_them_all_stays_byte_for_byte(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", tokenizer_config={"eos_token": "<|end|>"})
    whole = (source / "tokenizer.json").read_bytes()
    assert (copied(source) / "tokenizer.json").read_bytes() == whole


@pytest.mark.parametrize(
    ("decoder", "said"),
    [
        ({str(FIRST + 5): END}, rf"expected the id {FIRST + 5} .*leaves {FIRST} for it"),
        ({"one": END}, "added tokens are not valid"),
        ({str(FIRST): {"special": True}}, "added tokens are not valid"),
        ([END], "added tokens are not valid"),
    ],
)
def test_added_tokens_that_cannot_be_are_refused(
    tmp_path: Path, decoder: object, said: str
) -> None:
    source = checkpoint(tmp_path / "model", tokenizer_config={"added_tokens_decoder": decoder})
    with pytest.raises(CheckpointError, match=said):
        copied(source)
