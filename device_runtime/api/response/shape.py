"""What the two kinds of answer have in common: documents, chunks, and their heads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from msgspec import UNSET, UnsetType

from device_runtime.api.figures import HatFigures
from device_runtime.api.response.messages import Answer, ChoiceT, ObjectKind, Usage
from device_runtime.api.response.transcript import Piece

ChunkUsage = Usage | UnsetType | None
"""A chunk's usage: the numbers, null (they come at the end), or no such field."""

AnswerFigures = HatFigures | UnsetType
"""What the request took, if the client wants to know."""


@dataclass(frozen=True, slots=True)
class Head:
    """What every document and chunk of one answer begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    def over(
        self,
        kind: ObjectKind,
        choices: list[ChoiceT],
        usage: ChunkUsage,
        figures: AnswerFigures = UNSET,
    ) -> Answer[ChoiceT]:
        """A document or chunk of these choices."""
        return Answer(
            id=self.id,
            object=kind,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=choices,
            usage=usage,
            hat=figures,
        )


class AnswerShape(Protocol):
    """One of OpenAI's two ways to write an answer down."""

    def document(
        self, answers: Sequence[Piece], usage: Usage, figures: AnswerFigures
    ) -> Answer[Any]:
        """The whole answer: each choice joined to one piece, in the order of their indices."""
        ...

    def chunk(self, piece: Piece, usage: ChunkUsage) -> Answer[Any]:
        """One event of a stream."""
        ...

    def last_chunk(self, usage: ChunkUsage, figures: AnswerFigures) -> Answer[Any]:
        """The last event of a stream that was asked for usage or figures: no choices."""
        ...


def join_pieces(pieces: Sequence[Piece]) -> Piece:
    """The pieces of one choice, at least one, as a single piece."""
    last = pieces[-1]
    return Piece(
        index=last.index,
        text="".join(piece.text for piece in pieces),
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        num_tokens=last.num_tokens,
        is_first=True,
        finish_reason=last.finish_reason,
    )


def with_end(piece: Piece) -> Sequence[Piece]:
    """A piece as a stream sends it: the end of a choice stands alone, after its last text.

    Many clients take a chunk with a finish reason to be empty, as OpenAI's is.
    """
    if piece.finish_reason is None:
        return (piece,)
    end = replace(piece, text="", tokens=(), is_first=False)
    if not (piece.text or piece.tokens or piece.is_first):
        return (end,)
    return (replace(piece, finish_reason=None), end)
