"""Leaks that are planted: an attack that does not find them as large as they are proves nothing.

Half of the documents' rows are ones that the attack at hand reads completely by what is known of
it; the other half's are those of other words. An attack has to find the one half and not the
other, by tokens and by documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hat.audit.attacks.inverter import fit_inverter
from hat.audit.attacks.lens import lens_scores
from hat.audit.attacks.nearest import nearest
from hat.audit.attacks.optimising import Beginning, optimise
from hat.audit.attacks.search import SearchBounds, search
from hat.audit.cut_model import CutModel
from hat.audit.material import Known
from hat.audit.receipt import Control
from hat.audit.scoring import Ids, scored
from hat.audit.thresholds import WHOLE_VOCABULARY, Thresholds
from hat.audit.upwards import order_of

_MOST_CANDIDATES: Final = 4096
"""Of a position: where a leak is planted a search ends long before, elsewhere it finds nothing."""
_STEPS: Final = 100

Attack = Callable[[Tensor], Tensor]
"""Guesses `[T]` of a document's rows `[T, H]`."""


@dataclass(frozen=True, slots=True)
class Planted:
    """Documents of known strength."""

    said: Sequence[Ids]
    shown: Sequence[Ids]
    """What the rows are made of: of the first documents what is said, then other words."""
    num_planted: int

    @property
    def share(self) -> float:
        """Of tokens in documents with a leak."""
        lengths = [len(ids) for ids in self.said]
        return sum(lengths[: self.num_planted]) / sum(lengths)


def planted(said: Sequence[Ids], share: float, chance: np.random.Generator) -> Planted:
    """A leak in the first documents; in the others other words of all, at every position."""
    num_planted = round(share * len(said))
    words = np.concatenate(said)
    others = [_other_words(ids, words, chance) for ids in said[num_planted:]]
    return Planted(said, [*said[:num_planted], *others], num_planted)


def _other_words(ids: Ids, words: Ids, chance: np.random.Generator) -> Ids:
    return np.array([chance.choice(words[words != token_id]) for token_id in ids])


def judged(
    attack: str,
    found: Sequence[Ids],
    documents: Planted,
    thresholds: Thresholds,
    chance: np.random.Generator,
) -> Control:
    """Whether guesses for all documents are as right as was planted."""
    figure = scored(attack, found, documents.said, thresholds, chance)
    is_near = abs(figure.share - documents.share) <= thresholds.planted_tolerance
    return Control(
        attack=attack,
        planted=round(documents.share, 4),
        found=round(figure.share, 4),
        documents_read=figure.documents_read,
        documents_planted=documents.num_planted,
        passed=is_near and figure.documents_read == documents.num_planted,
    )


@dataclass(frozen=True, slots=True)
class Instrument:
    """An attack, and rows that it reads completely."""

    attack: str
    rows: Callable[[Ids], Tensor]
    """Of a document's tokens `[T]`."""
    guess: Attack


def instruments(
    model: CutModel, depth: int, known: Known, thresholds: Thresholds, seed: int
) -> list[Instrument]:
    """Every attack; `depth` layers lie below the rows that are searched and optimised."""
    ends = model.ends(depth)

    def embedded(ids: Ids) -> Tensor:
        return model.table[torch.from_numpy(ids)]

    hidden_size = model.table.shape[1]
    chance = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(hidden_size, hidden_size, generator=chance))[0]
    turned = fit_inverter(model.table[known.token_ids] @ turn, known.token_ids, model.table)
    inverter = fit_inverter(known.rows[depth], known.token_ids, model.table)

    def behind(ids: Ids) -> Tensor:
        return model.traced(ids.tolist(), [depth])[depth]

    def searched(rows: Tensor) -> Tensor:
        bounds = SearchBounds(thresholds.match_exact, _MOST_CANDIDATES, WHOLE_VOCABULARY)
        order = order_of(model, depth, rows, (inverter, ()))
        return torch.tensor(search(rows, ends, order, bounds).token_ids)

    def optimised(rows: Tensor) -> Tensor:
        beginning = Beginning(inverter.codes_of(rows), known.rows[depth].std(0))
        return optimise(rows, ends, beginning, _STEPS).token_ids

    return [
        Instrument("nearest embedding", embedded, lambda rows: nearest(rows, model.table)),
        Instrument("known pairs", lambda ids: embedded(ids) @ turn, turned.guess),
        Instrument("vocabulary search", behind, searched),
        Instrument("optimisation", behind, optimised),
    ]


def lens_instrument(model: CutModel) -> Instrument:
    """The lens, on rows behind all layers; what is said is what the model then says."""
    depth = len(model.layers)
    return Instrument(
        "logit lens",
        lambda ids: model.traced(ids.tolist(), [depth])[depth],
        lambda rows: lens_scores(rows, (), model.head).argmax(-1),
    )
