"""Text of a growing sequence is the tokenizer's own, and never holds half a character."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.text.detokenizer import make_detokenizer, whole_text
from device_runtime.text.tokenizer import Tokenizer
from tests.support.tokenizers import byte_level_tokenizer, story_tokenizer

BOS = 1
WORD = 410
"""A token of letters, which ends a run of bytes."""
ids = st.lists(st.integers(0, 511), max_size=24)
# Bytes make the interesting cases, and among all ids they would be rare.
byte_ids = st.lists(st.one_of(st.integers(3, 258), st.integers(0, 511)), max_size=24)
# U+2581 stands for a space in the vocabulary, so it cannot come back as itself.
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\ufffd")
texts = st.text(letters, max_size=24)


def pieces_of(tokenizer: Tokenizer, token_ids: Sequence[int], prompt: Sequence[int]) -> list[str]:
    detokenizer = make_detokenizer(tokenizer, prompt)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


@pytest.mark.parametrize("prompt", [[], [BOS]])
@given(token_ids=st.one_of(ids, byte_ids))
def test_joined_pieces_are_the_decoding_of_a_sequence_with_byte_fallback(prompt, token_ids):
    tokenizer = story_tokenizer()
    token_ids = [*token_ids, WORD]
    assert "".join(pieces_of(tokenizer, token_ids, prompt)) == tokenizer.decode(token_ids)


@given(token_ids=st.lists(st.integers(0, 340), max_size=24))
def test_joined_pieces_are_the_decoding_of_a_byte_level_sequence(token_ids):
    tokenizer = byte_level_tokenizer()
    [space] = tokenizer.encode(" ", add_special_tokens=False)
    token_ids = [*token_ids, space]
    assert "".join(pieces_of(tokenizer, token_ids, [])) == tokenizer.decode(token_ids)


@given(prompt=texts, token_ids=byte_ids)
def test_a_continuation_keeps_the_space_that_a_beginning_would_lose(prompt, token_ids):
    tokenizer = story_tokenizer()
    # A word ends the prompt, so that no run of bytes spans the two.
    prompt_ids = tokenizer.encode(prompt + " the")
    token_ids = [*token_ids, WORD]
    whole = tokenizer.decode([*prompt_ids, *token_ids])
    pieces = pieces_of(tokenizer, token_ids, prompt_ids)
    assert tokenizer.decode(prompt_ids) + "".join(pieces) == whole


@given(text=texts)
def test_no_piece_of_a_valid_text_holds_a_replacement_character(text):
    for tokenizer in (story_tokenizer(), byte_level_tokenizer()):
        token_ids = tokenizer.encode(text, add_special_tokens=False)
        pieces = pieces_of(tokenizer, token_ids, [])
        assert not any("\ufffd" in piece for piece in pieces)
        assert "".join(pieces) == text


@given(text=texts)
def test_token_bytes_joined_are_the_bytes_of_the_text(text):
    tokenizer = byte_level_tokenizer()
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(tokenizer.token_bytes(token_id) for token_id in token_ids) == text.encode()


@given(text=texts)
def test_a_byte_level_character_is_given_as_soon_as_it_is_whole(text):
    tokenizer = byte_level_tokenizer()
    detokenizer = make_detokenizer(tokenizer, [])
    received, given_out = b"", ""
    for token_id in tokenizer.encode(text, add_special_tokens=False):
        received += tokenizer.token_bytes(token_id)
        given_out += detokenizer.push(token_id)
        assert given_out == received.decode(errors="ignore")


@pytest.mark.parametrize("tokenizer", [story_tokenizer(), byte_level_tokenizer()])
@given(token_ids=st.one_of(ids, byte_ids).map(lambda ids: [min(id_, 319) for id_ in ids]))
def test_no_text_ends_in_a_replacement_character(tokenizer, token_ids):
    *pieces, rest = pieces_of(tokenizer, token_ids, [])
    assert not any(piece.endswith("\ufffd") for piece in [*pieces, rest])


def whole_characters(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """By the bytes: those of the first token of a text begin with a space that is not its own."""
    data = b"".join(tokenizer.token_bytes(token_id) for token_id in token_ids)
    text = data.decode(errors="ignore")
    return text if tokenizer.is_byte_level else text.removeprefix(" ")


@pytest.mark.parametrize("tokenizer", [story_tokenizer(), byte_level_tokenizer()])
@given(text=texts, data=st.data())
def test_a_text_cut_anywhere_has_its_whole_characters_and_nothing_else(tokenizer, text, data):
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    cut = token_ids[: data.draw(st.integers(0, len(token_ids)))]
    shown = "".join(pieces_of(tokenizer, cut, []))
    assert shown == whole_characters(tokenizer, cut) == whole_text(tokenizer, cut)
    assert text.startswith(shown)


@pytest.mark.parametrize("tokenizer", [story_tokenizer(), byte_level_tokenizer()])
@given(text=texts, data=st.data(), num_special=st.integers(0, 2))
def test_a_character_begun_by_the_prompt_comes_whole(tokenizer, text, data, num_special):
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    cut = data.draw(st.integers(0, len(token_ids)))
    prompt = [*token_ids[:cut], *[BOS] * num_special]
    pieces = pieces_of(tokenizer, token_ids[cut:], prompt)
    assert whole_text(tokenizer, prompt) + "".join(pieces) == text
