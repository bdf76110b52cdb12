"""What is recovered from rows on their way up: every token that the device sends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hat.audit.attacks.ends import Ends
from hat.audit.attacks.inverter import Inverter, fit_inverter
from hat.audit.attacks.nearest import nearest, nearest_scores
from hat.audit.attacks.optimising import Beginning, optimise
from hat.audit.attacks.search import Order, SearchBounds, Searched, likeliest_first, search
from hat.audit.cut_model import CutModel
from hat.audit.receipt import PUBLIC, Figure
from hat.audit.scoring import Ids, scored
from hat.audit.thresholds import WHOLE_VOCABULARY, Sizes, Thresholds

NEAREST, PAIRS = "nearest embedding", "known pairs"
SEARCH, OPTIMISED = "vocabulary search", "optimisation"

_MOST_WITHOUT_MATCH = 512
"""Candidates of a position where the attacker's layers are others, so that none matches."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a cloud has of one setting, and how it is judged."""

    rows: Sequence[Tensor]
    """Of each document, `[T, H]`, as the codec leaves them."""
    said: Sequence[Ids]
    """What is to be recovered of them."""
    known_rows: Tensor
    known_ids: Tensor
    """Pairs `[n, H]` and `[n]`."""
    distance: float
    """Of the device's ends from the attacker's."""
    match: float
    """At which distance a candidate of the search matches."""
    opening: tuple[int, ...]
    """The tokens that every document begins with: known, and not counted."""


@dataclass(frozen=True, slots=True)
class Judge:
    """How attacks are counted."""

    thresholds: Thresholds
    sizes: Sizes
    seed: int
    """Of this setting."""

    def figure(
        self, attack: str, guesses: Sequence[Tensor], said: Sequence[Ids], **more: Any
    ) -> Figure:
        """Guesses `[T]` of each document as a figure."""
        found = [guess.numpy(force=True) for guess in guesses]
        chance = np.random.default_rng(self.seed)
        return scored(attack, found, said[: len(found)], self.thresholds, chance, **more)

    def of_sent(self, attack: str, guesses: Sequence[Tensor], heard: Heard, **more: Any) -> Figure:
        """The same of guesses for all rows of documents, whose opening does not count."""
        begin = len(heard.opening)
        if "shuffled" in more:
            more["shuffled"] = [guess[begin:] for guess in more["shuffled"]]
        said = [ids[begin:] for ids in heard.said]
        return self.figure(attack, [guess[begin:] for guess in guesses], said, **more)


def attacked_up(model: CutModel, depth: int, heard: Heard, judge: Judge) -> list[Figure]:
    """What an attacker with this model, `depth` layers below the rows, recovers."""
    figures = [judge.of_sent(NEAREST, [nearest(rows, model.table) for rows in heard.rows], heard)]
    inverters, learnt = by_pairs(model.table, heard, judge)
    figures += learnt
    searched = heard.rows[: judge.sizes.search_documents]
    orders = (order_of(model, depth, rows, (inverters[-1], heard.opening)) for rows in searched)
    figures += by_search(model.ends(depth), orders, heard, judge)
    if depth:
        figures.append(by_optimisation(model.ends(depth), inverters[-1], heard, judge))
    return figures


def by_pairs(table: Tensor, heard: Heard, judge: Judge) -> tuple[list[Inverter], list[Figure]]:
    """An inverter and its figure for each number of pairs, the largest last."""
    inverters, figures = [], []
    for num_pairs in judge.sizes.known_pairs:
        rows, ids = heard.known_rows[:num_pairs], heard.known_ids[:num_pairs]
        inverters.append(fit_inverter(rows, ids, table))
        chance = torch.Generator().manual_seed(judge.seed)
        wrong = fit_inverter(rows, ids[torch.randperm(len(ids), generator=chance)], table)
        figures.append(
            judge.of_sent(
                PAIRS,
                [inverters[-1].guess(rows) for rows in heard.rows],
                heard,
                shuffled=[wrong.guess(rows).numpy(force=True) for rows in heard.rows],
                num_pairs=num_pairs,
            )
        )
    return inverters, figures


def by_search(ends: Ends, orders: Iterable[Order], heard: Heard, judge: Judge) -> list[Figure]:
    """The vocabulary tried at each position, until the work allowed is done; none of none."""
    most = WHOLE_VOCABULARY if heard.distance == PUBLIC else _MOST_WITHOUT_MATCH
    left = judge.sizes.search_layer_rows
    results: list[Searched] = []
    for rows, order in zip(heard.rows, orders, strict=False):
        results.append(search(rows, ends, order, SearchBounds(heard.match, most, left)))
        left -= results[-1].num_layer_rows
        if len(results[-1].token_ids) < len(rows):
            break
    begin = len(heard.opening)
    tried = [number for result in results for number in result.num_tried[begin:]]
    if not tried:
        return []
    figure = judge.of_sent(
        SEARCH,
        [torch.tensor(result.token_ids, dtype=torch.long) for result in results],
        heard,
        median_tried=int(np.median(tried)),
        most_tried=max(tried),
        num_matched=sum(sum(result.are_matches[begin:]) for result in results),
    )
    return [figure]


def by_optimisation(ends: Ends, inverter: Inverter, heard: Heard, judge: Judge) -> Figure:
    """Soft embeddings of the beginnings of a few documents, from what a map says they are."""
    sizes = judge.sizes
    spread = heard.known_rows.std(0)
    guesses = []
    for rows in heard.rows[: sizes.optimised_documents]:
        first = rows[: sizes.optimised_tokens]
        beginning = Beginning(inverter.codes_of(first), spread)
        guesses.append(optimise(first, ends, beginning, sizes.optimised_steps).token_ids)
    begun = [ids[: sizes.optimised_tokens] for ids in heard.said]
    return judge.of_sent(OPTIMISED, guesses, replace(heard, said=begun))


def order_of(
    model: CutModel, depth: int, rows: Tensor, known: tuple[Inverter, tuple[int, ...]]
) -> Order:
    """Candidates by what three cheap guesses say: the last one is the model's own of what follows.

    A cloud computes that by running rows of before through its layers, and public ones above.
    `known` is what was learnt, and the opening, for whose tokens there is one candidate each.
    """
    inverter, opening = known
    near, learnt = nearest_scores(rows, model.table), inverter.scores(rows)
    following = model.logits(rows, depth)

    def order(position: int) -> Tensor:
        if position < len(opening):
            return torch.tensor([opening[position]])
        scores = (near[position], learnt[position])
        return likeliest_first((*scores, following[position - 1]) if position else scores)

    return order
