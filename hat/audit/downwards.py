"""What is recovered from rows on their way down: every token that the device chooses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import torch
from torch import Tensor

from hat.audit.attacks.inverter import fit_inverter
from hat.audit.attacks.lens import lens_scores
from hat.audit.cut_model import CutModel
from hat.audit.material import Spoken, chosen
from hat.audit.receipt import Figure
from hat.audit.upwards import Heard, Judge, by_optimisation, by_pairs, by_search, order_of

LENS, OWN_LAYERS = "logit lens", "own copy of the output layers"
GREEDY, SAMPLED = "greedy", "sampled"
UNDER_ALL = "from returned rows alone"


@dataclass(frozen=True, slots=True)
class Returned:
    """What a cloud has of the rows that it sends back."""

    documents: Sequence[Spoken]
    heard: Heard
    """Rows of whole documents; what is said are the answers."""

    def answering(self, guesses: Sequence[Tensor]) -> list[Tensor]:
        """Of guesses for all rows, those of the rows that come back."""
        return [guess[doc.returned] for guess, doc in zip(guesses, self.documents, strict=True)]


def attacked_down(model: CutModel, depth: int, came: Returned, judge: Judge) -> list[Figure]:
    """What an attacker with this model recovers of answers; rows are those behind `depth`."""
    heard, head = came.heard, model.head
    figures = _by_lens(LENS, lambda rows: lens_scores(rows, (), head), came, judge)
    above = model.layers[depth:]
    if above:
        figures += _by_lens(OWN_LAYERS, lambda rows: lens_scores(rows, above, head), came, judge)
    answers = replace(heard, rows=came.answering(heard.rows), opening=())
    figures += by_pairs(model.table, answers, judge)[1]
    return figures


def attacked_from_below(model: CutModel, depth: int, came: Heard, judge: Judge) -> list[Figure]:
    """What is recovered of the tokens below returned rows, by who has nothing else."""
    inverter = fit_inverter(came.known_rows, came.known_ids, model.table)
    orders = (order_of(model, depth, rows, (inverter, came.opening)) for rows in came.rows)
    ends = model.ends(depth)
    found = [*by_search(ends, orders, came, judge), by_optimisation(ends, inverter, came, judge)]
    return [
        msgspec.structs.replace(figure, attack=f"{figure.attack}, {UNDER_ALL}") for figure in found
    ]


def _by_lens(
    name: str, scores: Callable[[Tensor], Tensor], came: Returned, judge: Judge
) -> list[Figure]:
    """A figure of greedy answers, and one of sampled ones."""
    guesses = came.answering([scores(rows).argmax(-1) for rows in came.heard.rows])
    figures = []
    for is_greedy, kind in ((True, GREEDY), (False, SAMPLED)):
        places = [n for n, doc in enumerate(came.documents) if doc.is_greedy is is_greedy]
        if places:
            figures.append(
                judge.figure(
                    f"{name}, {kind}",
                    [guesses[place] for place in places],
                    [came.heard.said[place] for place in places],
                )
            )
    return figures


def said_by(
    model: CutModel, depth: int, documents: Sequence[Spoken], rows: Sequence[Tensor], seed: int
) -> list[Tensor]:
    """What the device's own ends choose at each returned row, `[T]` of each document."""
    chance = torch.Generator().manual_seed(seed)
    return [
        torch.tensor(chosen(model.logits(each, depth)[doc.returned], doc.is_greedy, chance))
        for doc, each in zip(documents, rows, strict=True)
    ]
