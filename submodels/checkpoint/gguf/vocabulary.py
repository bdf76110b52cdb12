"""The vocabulary of a GGUF file, checked."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from submodels.checkpoint.gguf.architectures import architecture_of
from submodels.checkpoint.gguf.file import GgufFile
from submodels.errors import CheckpointError

_PREFIX = "tokenizer"

# How chat templates of the supported families end a turn. Some files name only the end of a
# document as their end of text.
_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
)


class TokenType(IntEnum):
    """llama.cpp's kinds of tokens that matter here."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id, each with its type, and what else the file says of text."""

    file: GgufFile
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    ends: tuple[str, ...] | None = None
    """What ends an answer by the kind of model; None: what the chat template says."""

    def get(self, key: str, default: Any = None) -> Any:
        """A setting of the tokenizer, by its name after `tokenizer.ggml.`."""
        return self.file.settings.get(f"{_PREFIX}.ggml.{key}", default)

    @property
    def chat_template(self) -> str | None:
        """The template for conversations, where the file has one."""
        template = self.file.settings.get(f"{_PREFIX}.chat_template")
        return template if isinstance(template, str) else None

    def special_id(self, name: str) -> int | None:
        """The id of a special token (`bos`, `eos`, `unknown`, `padding`, ...), if there is one."""
        token_id = self.get(f"{name}_token_id")
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            return None
        if not 0 <= token_id < len(self.tokens):
            return None
        return token_id

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: those the file names, and a turn's end by its template."""
        named = [self.special_id(name) for name in ("eos", "eot", "eom")]
        ids = [token_id for token_id in named if token_id is not None]
        template, own = self.chat_template or "", self.ends
        texts = [text for text in _TURN_ENDS if text in template] if own is None else own
        ids += [self.tokens.index(text) for text in texts if text in self.tokens]
        return tuple(dict.fromkeys(ids))

    def of_type(self, kind: TokenType) -> tuple[str, ...]:
        """The tokens of one kind."""
        return tuple(t for t, k in zip(self.tokens, self.types, strict=True) if k == kind)


def read_vocabulary(file: GgufFile) -> Vocabulary:
    """The vocabulary of a model.

    Raises:
        CheckpointError: there is none, or its parts do not fit each other.
        UnsupportedModelError: an architecture that is not read.
    """
    tokens = file.settings.get(f"{_PREFIX}.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError(f"{file.path} holds no tokenizer")
    types = file.settings.get(f"{_PREFIX}.ggml.token_type") or [TokenType.NORMAL] * len(tokens)
    num_types = len(types) if isinstance(types, list) else 0
    if num_types != len(tokens):
        raise CheckpointError(f"{file.path} has {len(tokens)} tokens, but {num_types} types")
    return Vocabulary(file, tuple(tokens), tuple(types), architecture_of(file).ends)
