"""Text to token ids and back, as the model's own tokenizer.json says."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import tokenizers

from submodels.bundle.model_files import model_files
from submodels.checkpoint.special_tokens import TOKENIZER_FILE
from submodels.errors import BundleError

_TAG = re.compile(r"<.+>", re.DOTALL)
"""An added token that the grammar library takes for one of control, whatever its file says."""

_MARK = re.compile(r"<\S+>|\[\S+\]")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

MANY_TOKENS = 2_000
"""So many take several milliseconds, in which an event loop would stand still."""

# A text of this many characters per token of context is most often too long: English has 4.
_FIRST_CHARACTERS_PER_TOKEN = 16
_LEAST_CHARACTERS = 4096
_GROWTH = 4
# What a prefix may have more than the same characters have within the whole text: its last word
# is cut. Twice the limit besides, for tokenizers that look further.
_MARGIN_TOKENS = 64


class TextTooLongError(ValueError):
    """A text has far more tokens than are allowed; `num_tokens` of it were counted."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(f"at least {num_tokens} tokens")
        self.num_tokens = num_tokens


class Tokenizer:
    """A loaded tokenizer. `is_byte_level` tells GPT-2's alphabet from sentencepiece-like ones.

    In a byte-level vocabulary a token is a string of bytes and text is their UTF-8. Elsewhere a
    token is text, but for byte-fallback tokens, and the decoder may treat the beginning of a text
    specially (it strips the space that was put there).
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        steps = _decoder_steps(backend)
        self.is_byte_level = steps == ["ByteLevel"]
        self._has_byte_fallback = "ByteFallback" in steps
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        self._tag_ids = frozenset(
            id_ for id_, token in added.items() if _TAG.fullmatch(token.content)
        )
        self.control_ids: dict[str, int] = {
            token.content: id_
            for id_, token in sorted(added.items())
            if len(token.content) > 1 and (token.special or _MARK.fullmatch(token.content))
        }
        """Tokens that text may be read as although they are no words: special ones, and marks."""
        self._byte_of_character = _byte_of_character() if self.is_byte_level else {}
        self._anchor_ids = [] if self.is_byte_level else self._find_anchor()
        self._anchor_length = len(self.decode(self._anchor_ids))

    def as_json(self) -> str:
        """The tokenizer as its file has it."""
        text: str = self._backend.to_str()
        return text

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with the special tokens its post-processor adds, or without.

        Works without Python's interpreter lock, so a long text may be encoded in a thread.
        """
        [encoding] = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of a whole sequence. Ids without a token are left out.

        A long one is decoded without Python's interpreter lock, so it may be in a thread.
        """
        if len(ids) < MANY_TOKENS:
            text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        else:
            [text] = self._backend.decode_batch([list(ids)], skip_special_tokens)
        return text

    def decode_continuation(self, ids: Sequence[int]) -> str:
        """The text of tokens that follow others, so without what a beginning would strip."""
        return self.decode([*self._anchor_ids, *ids])[self._anchor_length :]

    @property
    def special_ids(self) -> dict[str, int]:
        """The tokens of control, by their names, and added ones that are written like tags.

        Text shows the latter, such as Qwen's `<tool_call>` and `</think>`, but no grammar of
        letters allows them.
        """
        ids = sorted(self._special_ids | self._tag_ids)
        named = ((self._backend.id_to_token(id_), id_) for id_ in ids)
        return {name: id_ for name, id_ in named if name}

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a mark of control that text leaves out."""
        return token_id in self._special_ids

    def is_byte_fallback(self, token_id: int) -> bool:
        """Whether the token is one byte of a character that has no token of its own."""
        return self._fallback_byte(token_id) is not None

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token adds to a text; a special token's are those of its name."""
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self.is_byte_level:
            return self._byte_level_bytes(token)
        byte = self._fallback_byte(token_id)
        if byte is not None:
            return bytes([byte])
        if self.is_special(token_id):
            return bytes(token, "utf-8")
        return self.decode_continuation([token_id]).encode()

    def _byte_level_bytes(self, token: str) -> bytes:
        """Bytes of a token; one with a character outside the alphabet stands for itself."""
        table = self._byte_of_character
        if all(character in table for character in token):
            return bytes(table[character] for character in token)
        return token.encode()

    def _fallback_byte(self, token_id: int) -> int | None:
        if not self._has_byte_fallback:
            return None
        match = _BYTE_TOKEN.fullmatch(self._backend.id_to_token(token_id) or "")
        return int(match[1], 16) if match else None

    def _find_anchor(self) -> list[int]:
        """An ordinary token to put before others, so that they do not begin the text."""
        for token_id in range(self._backend.get_vocab_size()):
            if self.is_special(token_id) or self.is_byte_fallback(token_id):
                continue
            text = self.decode([token_id])
            if text.isalpha() and self.decode([token_id, token_id]) == text + text:
                return [token_id]
        return []


def encode_within(
    encode: Callable[[str], Sequence[int]], text: str, max_tokens: int
) -> Sequence[int]:
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


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a bundle, or of a checkpoint's folder.

    Raises:
        BundleError: tokenizer.json is missing, not listed, or cannot be read as one.
    """
    path = model_files(folder).path(TOKENIZER_FILE)
    if path is None:
        raise BundleError(
            f"{folder / TOKENIZER_FILE} is missing: the device needs the model's fast tokenizer"
        )
    try:
        return Tokenizer(tokenizers.Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"cannot read {path}: {error}") from error


def _decoder_steps(backend: tokenizers.Tokenizer) -> list[str]:
    """The names of what decoding does to tokens, in order."""
    if backend.decoder is None:
        return []
    decoder = msgspec.json.decode(backend.decoder.__getstate__())
    return [step["type"] for step in decoder.get("decoders", [decoder])]


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level vocabularies: printable Latin-1 is itself, the rest shifted.

    Source: `bytes_to_unicode` of GPT-2's encoder (Radford et al., 2019).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    shifted = {chr(0x100 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
