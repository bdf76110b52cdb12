"""Refusing a text that is far too long before all of it is tokenised."""

from collections.abc import Callable, Sequence

# A text of this many characters per token of context is most often too long: English has 4.
_FIRST_CHARACTERS_PER_TOKEN = 16
_LEAST_CHARACTERS = 4096
_GROWTH = 4
# What a prefix may have more than the same characters have within the whole text: its last word
# is cut. Twice the limit besides, for tokenizers that look further.
_MARGIN_TOKENS = 64

Encode = Callable[[str], Sequence[int]]


class TextTooLongError(ValueError):
    """A text has far more tokens than are allowed; `num_tokens` of it were counted."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(f"at least {num_tokens} tokens")
        self.num_tokens = num_tokens


def encode_within(encode: Encode, text: str, max_tokens: int) -> Sequence[int]:
    """The tokens of a text; up to twice `max_tokens` they are all counted.

    Longer texts are tokenised from their beginning, in growing prefixes, until one has more than
    twice as many tokens as allowed. A bound by the longest token would refuse nothing (some have
    128 bytes), and be wrong where a normaliser shrinks the text.

    Args:
        encode: The tokenizer.
        text: What to encode.
        max_tokens: How many the caller can use.

    Raises:
        TextTooLongError: a prefix has more than twice as many and 64.
    """
    size = max(_LEAST_CHARACTERS, _FIRST_CHARACTERS_PER_TOKEN * max_tokens)
    while size < len(text):
        num_tokens = len(encode(text[:size]))
        if num_tokens > 2 * max_tokens + _MARGIN_TOKENS:
            raise TextTooLongError(num_tokens)
        size *= _GROWTH
    return encode(text)
