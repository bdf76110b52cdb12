"""What an answer says beside its texts, where that is wanted: ids, and what its prompt was."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from device_runtime.api.answer.logprobs import TokenTexts
from device_runtime.api.answer.transcript import Piece
from device_runtime.api.openai.logprobs import prompt_logprobs
from device_runtime.api.openai.messages import PromptLogprobs


@dataclass(frozen=True, slots=True)
class OfPrompt:
    """What an answer says of its prompt."""

    logprobs: PromptLogprobs | UnsetType = UNSET
    token_ids: Sequence[int] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class WantedExtras:
    """What a request wants told beside texts: alternatives of tokens, None for none; ids."""

    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    tells_ids: bool = False

    def of_prompt(self, texts: TokenTexts, piece: Piece) -> OfPrompt:
        """What the first piece of a choice says of the prompt."""
        logprobs: PromptLogprobs | UnsetType = UNSET
        if self.num_prompt_logprobs is not None and piece.prompt is not None:
            logprobs = prompt_logprobs(texts, piece.prompt, self.num_prompt_logprobs)
        ids = piece.prompt_ids if self.tells_ids and piece.is_first else UNSET
        return OfPrompt(logprobs, ids)

    def ids_of(self, piece: Piece) -> Sequence[int] | UnsetType:
        """The ids of a piece's tokens."""
        return piece.token_ids if self.tells_ids else UNSET
