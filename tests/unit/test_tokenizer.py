"""The tokenizer of a bundle."""

import pytest

from device_runtime.text.tokenizer import load_tokenizer
from submodels.errors import BundleError
from tests.support.tokenizers import byte_level_tokenizer, story_tokenizer

BOS = 1


def test_special_tokens_are_added_as_the_post_processor_says_or_left_out():
    for tokenizer, begin in ((story_tokenizer(), BOS), (byte_level_tokenizer(), 0)):
        assert tokenizer.encode("the")[0] == begin
        assert tokenizer.encode("the")[1:] == tokenizer.encode("the", add_special_tokens=False)


def test_a_beginning_written_in_the_text_is_the_special_token():
    assert story_tokenizer().encode("<s>", add_special_tokens=False) == [BOS]


def test_a_continuation_keeps_its_space_and_a_beginning_has_none():
    tokenizer = story_tokenizer()
    [token_id] = tokenizer.encode("the", add_special_tokens=False)
    assert tokenizer.decode([token_id]) == "the"
    assert tokenizer.decode_continuation([token_id]) == " the"
    assert tokenizer.token_bytes(token_id) == b" the"


def test_the_bytes_of_byte_tokens_special_tokens_and_ids_without_a_token():
    tokenizer = story_tokenizer()
    assert tokenizer.token_bytes(3 + 0xE4) == b"\xe4"
    assert tokenizer.token_bytes(BOS) == b"<s>"
    assert tokenizer.token_bytes(100_000) == b""
    assert byte_level_tokenizer().token_bytes(0) == b"<|begin|>"


def test_special_tokens_are_left_out_of_text_unless_asked_for():
    tokenizer = story_tokenizer()
    assert tokenizer.decode([BOS, 403]) == tokenizer.decode([403])
    assert tokenizer.decode([BOS, 403], skip_special_tokens=False).startswith("<s>")


@pytest.mark.parametrize("content", [None, "{", '{"version": "1.0"}'])
def test_a_missing_or_broken_tokenizer_file_is_a_bundle_error(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
