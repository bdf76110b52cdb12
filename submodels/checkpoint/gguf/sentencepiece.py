"""Tokenizers of sentencepiece's kind: characters are merged, best score first.

Families differ in where a space is put before a text and in the order of merges. No setting says
it, so it goes by the architecture, as in `transformers` and llama.cpp.
"""

from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from submodels.checkpoint.gguf.vocabulary import TokenType, Vocabulary
from submodels.errors import CheckpointError

GEMMA4 = "gemma4"
SENTENCEPIECE = ("llama", GEMMA4)
"""Kinds of tokenizers, by llama.cpp's names. Gemma 4's files hold merges instead of scores."""

_SPACE = "▁"
# Every way to cut a token in two is tried; sentencepiece makes none longer than some dozen.
_MAX_PIECE_LENGTH = 256

_GEMMA, _PHI3 = ("gemma2", "gemma3"), "phi3"
_KEEPS_SPACES = ("<unk>", "<s>", "<|endoftext|>")


def with_spaces_as_marks(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary as Gemma's own tokenizer has it; of other models as it is.

    llama.cpp's converter writes tokens of several spaces as such, which are marks like all others.
    """
    if vocabulary.file.architecture not in _GEMMA:
        return vocabulary
    tokens, types = list(vocabulary.tokens), list(vocabulary.types)
    known = set(tokens)
    for index, token in enumerate(tokens):
        marks = _SPACE * len(token)
        if token.strip(" ") or len(token) < 2 or marks in known:
            continue
        tokens[index], types[index] = marks, TokenType.NORMAL
    return replace(vocabulary, tokens=tuple(tokens), types=tuple(types))


def takes_spaces(vocabulary: Vocabulary, text: str) -> bool:
    """Whether spaces and lines behind an added token are a part of it, as in Phi-3's files."""
    is_phi3 = vocabulary.file.architecture == _PHI3 and vocabulary.get("model") == "llama"
    return is_phi3 and text not in _KEEPS_SPACES


def sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    """Merges of characters, best score first; a character without a token becomes its bytes."""
    unknown = vocabulary.special_id("unknown")
    tokenizer = Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(vocabulary.tokens)},
            _merges(vocabulary),
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    has_prefix = vocabulary.get("add_space_prefix", True)
    if has_prefix and vocabulary.file.architecture == _PHI3:
        # Before each piece between added tokens, whatever it begins with.
        marks: list[Any] = [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
        tokenizer.normalizer = normalizers.Sequence(marks)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=_SPACE, prepend_scheme="first" if has_prefix else "never", split=False
        )
    steps: list[Any] = [
        decoders.Replace(_SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    if has_prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a token of two others, in the order in which sentencepiece tries them.

    Source: `generate_merges` of transformers.
    """
    tokens = vocabulary.tokens
    merges = vocabulary.get("merges")
    if vocabulary.get("model") == GEMMA4:
        if not isinstance(merges, list) or not all(isinstance(merge, str) for merge in merges):
            raise CheckpointError(f"{vocabulary.file.path} holds no merges")
        pairs = [merge.partition(" ") for merge in merges]
        return [(left, right) for left, _, right in pairs]
    scores = vocabulary.get("scores")
    if vocabulary.file.architecture in _GEMMA:
        # Tokens that were added have a score of another kind; places follow the order of all.
        scores = [-index for index in range(len(tokens))]
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CheckpointError(f"{vocabulary.file.path} does not hold a score for each token")
    longest = max(map(len, tokens))
    if longest > _MAX_PIECE_LENGTH:
        raise CheckpointError(f"{vocabulary.file.path} is corrupt: a token has {longest} letters")
    ids = {token: index for index, token in enumerate(tokens)}
    made = [
        (-score, -len(left), -len(right), index, ids[left], ids[right])
        for index, (token, score) in enumerate(zip(tokens, scores, strict=True))
        for left, right in ((token[:place], token[place:]) for place in range(1, len(token)))
        if left in ids and right in ids
    ]
    return [(tokens[left], tokens[right]) for *_, left, right in sorted(made)]
