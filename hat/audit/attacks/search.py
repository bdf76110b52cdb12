"""Every token of the vocabulary tried at a position, behind the tokens recovered so far.

Hidden states of different texts differ, and a row depends on its own token and those before it
alone. So whoever has the weights of the layers below a row recovers a text from its beginning:
at each position he computes the rows of all tokens and takes the one that came. Likely tokens go
first, and the search of a position ends where one matches.

Source: Nikolaou et al., 2025, SipIt (arXiv:2510.15511).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hat.audit.attacks.ends import Ends
from submodels.bundle.layers import Attend, Scores, attend

_FIRST_CHUNK: Final = 16
_LARGEST_CHUNK: Final = 512

Order = Callable[[int], Tensor]
"""Of a position, all token ids `[V]`, the likeliest first."""


@dataclass(frozen=True, slots=True)
class SearchBounds:
    """When a search ends."""

    match: float
    """A candidate matches at this distance, as a part of the row's length."""
    most_candidates: int
    """Of a position; the nearest of them is taken where none matches."""
    most_layer_rows: int
    """Rows times layers in all; a position that would take more is left out, and what follows."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What was found, for the positions that were searched."""

    token_ids: tuple[int, ...]
    num_tried: tuple[int, ...]
    """Candidates of each position."""
    are_matches: tuple[bool, ...]
    """Whether the token of a position matched."""
    num_layer_rows: int


class _Seen:
    """Keys and values of the recovered tokens in one layer."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    def attending(self, position: int, window: int | None, how: Scores, keep: bool) -> Attend:
        """Attention of candidates for a position: each sees the recovered tokens and itself."""

        def attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            num = len(queries)
            all_keys, all_values = keys, values
            if self._kept is not None:
                all_keys = torch.cat((self._kept[0], keys))
                all_values = torch.cat((self._kept[1], values))
            past = torch.arange(position, device=keys.device)
            past = past > (position - window if window is not None else -1)
            own = torch.eye(num, dtype=torch.bool, device=keys.device)
            visible = torch.cat((past.expand(num, position), own), dim=1)
            if keep:
                self._kept = (all_keys, all_values)
            grouped = queries.view(num, keys.shape[1], -1, queries.shape[-1])
            return attend(grouped, all_keys, all_values, visible, how).flatten(1, 2)

        return attended


class _Prefix:
    """The recovered tokens, as all layers see them."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._seen = [_Seen() for _ in ends.layers]
        self.length = 0

    def states(self, token_ids: Tensor, keep: bool = False) -> Tensor:
        """Rows `[C, H]` of candidates for the next position; one that is kept becomes part."""
        rows = self._ends.table[token_ids]
        positions = torch.full((len(rows),), self.length, device=rows.device)
        for layer, seen in zip(self._ends.layers, self._seen, strict=True):
            sees = seen.attending(self.length, layer.window, layer.scores, keep)
            rows = layer.through(rows, positions, sees)
        self.length += keep
        return rows


def search(rows: Tensor, ends: Ends, order: Order, bounds: SearchBounds) -> Searched:
    """Recover a sequence's tokens from its rows `[T, H]`, from its first position on."""
    prefix = _Prefix(ends)
    found: list[int] = []
    tried: list[int] = []
    matches: list[bool] = []
    depth = max(1, len(ends.layers))
    for position, row in enumerate(rows):
        candidates = order(position)[: bounds.most_candidates]
        num_left = bounds.most_layer_rows // depth - sum(tried)
        token_id, num_tried, is_match = _search_one(
            row, prefix, candidates[: max(0, num_left)], bounds.match
        )
        if num_left < len(candidates) and not is_match:
            break
        found.append(token_id)
        tried.append(num_tried)
        matches.append(is_match)
        prefix.states(torch.tensor([token_id], device=rows.device), keep=True)
    return Searched(tuple(found), tuple(tried), tuple(matches), sum(tried) * depth)


def _search_one(
    row: Tensor, prefix: _Prefix, candidates: Tensor, match: float
) -> tuple[int, int, bool]:
    """The nearest token, how many were tried, and whether it matches."""
    near = match * float(row.norm())
    best, best_distance = -1, float("inf")
    begin, size = 0, _FIRST_CHUNK
    while begin < len(candidates) and best_distance > near:
        chunk = candidates[begin : begin + size]
        distances = (prefix.states(chunk) - row).norm(dim=-1)
        place = int(distances.argmin())
        if float(distances[place]) < best_distance:
            best, best_distance = int(chunk[place]), float(distances[place])
        begin += len(chunk)
        size = min(2 * size, _LARGEST_CHUNK)
    return best, begin, best_distance <= near


def likeliest_first(scores: tuple[Tensor, ...]) -> Tensor:
    """Token ids `[V]` by the best rank that any of several score lists `[V]` gives them."""
    ranks = [
        torch.empty_like(each, dtype=torch.long).scatter_(
            0, each.argsort(descending=True, stable=True), torch.arange(len(each))
        )
        for each in scores
    ]
    return torch.stack(ranks).amin(0).argsort(stable=True)
