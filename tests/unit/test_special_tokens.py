"""Special tokens as the model's files name them: the same that transformers reads there."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, models
from transformers import AutoTokenizer

from submodels.bundle.model_files import ModelFiles
from submodels.checkpoint.special_tokens import named_special_tokens, tokenizer_eos_id
from submodels.errors import BundleError

_WORDS = ("<a>", "<b>", "<c>", "<plain>", "<img>")
_AS_OBJECT = {"__type": "AddedToken", "content": "<b>", "lstrip": False, "special": True}
_DECODER = {"1": {"content": "<b>", "special": True}}


def written(folder: Path, **files: Any) -> ModelFiles:
    """A folder with a tokenizer of five words, three of them special, and these files."""
    backend = tokenizers.Tokenizer(
        models.WordLevel({"<plain>": 3, "<img>": 4}, unk_token="<plain>")
    )
    backend.add_special_tokens([AddedToken(word, special=True) for word in _WORDS[:3]])
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return ModelFiles(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": "<b>"}},
        {"tokenizer_config": {"eos_token": _AS_OBJECT, "bos_token": "<a>"}},
        {"tokenizer_config": {"eos_token": "<plain>"}},
        {"tokenizer_config": {"eos_token": None, "bos_token": "<a>"}},
        {"tokenizer_config": {}, "special_tokens_map": {"eos_token": "<c>", "bos_token": "<a>"}},
        {
            "tokenizer_config": {"eos_token": "<a>"},
            "special_tokens_map": {"eos_token": {"content": "<c>", "lstrip": False}},
        },
        {
            "tokenizer_config": {"eos_token": "<b>", "added_tokens_decoder": _DECODER},
            "special_tokens_map": {"eos_token": "<c>", "bos_token": "<a>"},
        },
        {"tokenizer_config": {"eos_token": "<b>", "extra_special_tokens": {"image": "<img>"}}},
        {"tokenizer_config": {"eos_token": "<b>", "image_token": "<img>"}},
    ],
)
def test_names_and_the_end_of_text_are_those_that_transformers_reads(
    tmp_path: Path, files: dict[str, Any]
) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    files = files | {"tokenizer_config": settings | files["tokenizer_config"]}
    came = written(tmp_path, **files)
    expected = AutoTokenizer.from_pretrained(tmp_path)
    assert named_special_tokens(came) == expected.special_tokens_map
    assert tokenizer_eos_id(came) == expected.eos_token_id


def test_an_end_of_text_that_the_tokenizer_does_not_have_is_none(tmp_path: Path) -> None:
    files = written(tmp_path, tokenizer_config={"eos_token": "<nowhere>"})
    assert tokenizer_eos_id(files) is None


@pytest.mark.parametrize("text", ["[]", "{", '{"added_tokens": [3]}', '{"model": {"vocab": [[]]}}'])
def test_a_tokenizer_that_is_none_is_refused_by_its_path(tmp_path: Path, text: str) -> None:
    files = written(tmp_path, tokenizer_config={"eos_token": "<b>"})
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        tokenizer_eos_id(files)
