"""A text far beyond the context costs what the context costs; one that fits is never refused."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from device_runtime.text.tokenizer import TextTooLongError, Tokenizer, encode_within
from tests.support.tokenizers import byte_level_backend, byte_level_tokenizer, story_tokenizer


def shrinking_tokenizer() -> Tokenizer:
    """One whose normaliser makes one blank of many, so that a long text may be short."""
    backend = tokenizers.Tokenizer.from_str(byte_level_backend().to_str())
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    return Tokenizer(backend)


TOKENIZERS = [story_tokenizer(), byte_level_tokenizer(), shrinking_tokenizer()]
words = st.sampled_from(["Once upon a time ", "a", "    ", "你好", "x" * 40, "\n", "ﬁ", "<|end|>"])
texts = st.tuples(st.lists(words, min_size=1, max_size=6), st.integers(1, 4000)).map(
    lambda drawn: "".join(drawn[0]) * (drawn[1] // len(drawn[0]))
)


@given(tokenizer=st.sampled_from(TOKENIZERS), text=texts, max_tokens=st.integers(1, 200))
def test_a_text_is_refused_only_when_it_has_more_tokens_than_allowed(
    tokenizer: Tokenizer, text: str, max_tokens: int
) -> None:
    whole = tokenizer.encode(text)
    if len(whole) <= 2 * max_tokens:
        assert encode_within(tokenizer.encode, text, max_tokens) == whole
        return
    try:
        assert encode_within(tokenizer.encode, text, max_tokens) == whole
    except TextTooLongError:
        assert len(whole) > max_tokens


@given(num_characters=st.integers(1, 10**7), max_tokens=st.integers(1, 10_000))
def test_what_is_tokenised_of_a_text_does_not_grow_with_it(
    num_characters: int, max_tokens: int
) -> None:
    seen = 0

    def encode(text: str) -> list[int]:
        nonlocal seen
        seen += len(text)
        return [0] * (len(text) // 4)

    text = "a" * num_characters
    try:
        encode_within(encode, text, max_tokens)
    except TextTooLongError:
        assert seen <= 4096 + 16 * max_tokens
    # A text that is no longer than this, or has few tokens, is worth a third more at most.
    assert seen <= max(4096 + 16 * max_tokens, num_characters * 4 / 3)


def test_a_long_text_of_few_tokens_is_still_encoded() -> None:
    tokenizer = shrinking_tokenizer()
    text = "hi" + " " * 300_000 + "x"
    assert encode_within(tokenizer.encode, text, 16) == tokenizer.encode("hi x")


def test_the_refusal_says_how_many_tokens_there_are_at_least() -> None:
    with pytest.raises(TextTooLongError, match="at least 1930"):
        encode_within(story_tokenizer().encode, "Once upon a time " * 100_000, 512)
