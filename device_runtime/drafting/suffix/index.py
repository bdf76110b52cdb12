"""Where the last words of a text were said before: chains of earlier places, as in LZ77.

Each token ends a context of 8, of 3 and of 1 tokens. A table has, for the hash of a context, the
latest place that followed such a context, and each place remembers the one before it with the same
hash. So a token costs a few reads and writes, however long the text is, and what is forgotten
needs no clearing up: a place that lies too far back ends its chain. Hashes only find places; how
much of the text really matches there is compared token by token.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

_CONTEXTS = (8, 3, 1)
"""Lengths of the contexts that are looked up, the longest first: it finds the best matches among
the many places of a frequent short context. One token is enough to be worth a look, since a
proposal costs nothing until it is sent."""

LONGEST_MATCH = 24
"""Tokens that a match is measured to; what is longer is as sure."""

_MOST_PLACES = 16
"""Earlier places of one context that are looked at, latest first."""

_END_OF_TEXT = -1


@dataclass(frozen=True, slots=True)
class Place:
    """A place in what was indexed; the `num_matching` tokens before it end the text looked up."""

    position: int
    num_matching: int


class SuffixIndex:
    """Texts, one behind the other, of which the last `max_tokens` tokens are kept.

    `num_slots`, a power of two, is the size of the tables; with many more tokens than slots
    chains mix and matches are missed, and nothing else happens.

    Source: the suffix tree of SuffixDecoding (Oliaro et al., NeurIPS 2025, arXiv:2411.04975),
    with hash chains as in LZ77 coders (RFC 1951, section 4) in its place.
    """

    def __init__(self, max_tokens: int, num_slots: int) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        if num_slots < 1 or num_slots & (num_slots - 1):
            raise ValueError(f"num_slots must be a power of two, got {num_slots}")
        self._max_tokens = max_tokens
        self._mask = num_slots - 1
        self._tokens = array("i")
        self._earlier = tuple(array("q") for _ in _CONTEXTS)
        self._latest = tuple(array("q", bytes(8 * num_slots)) for _ in _CONTEXTS)
        self._context: tuple[int, ...] = ()
        self.num_tokens = 0
        """All that were ever added: the position that comes next."""

    @property
    def max_bytes(self) -> int:
        """Memory, once as many tokens are held as are kept."""
        place_bytes = self._latest[0].itemsize * len(_CONTEXTS)
        num_slots = self._mask + 1
        return num_slots * place_bytes + self._max_tokens * (place_bytes + self._tokens.itemsize)

    @property
    def first_position(self) -> int:
        """The oldest position that is kept."""
        return max(0, self.num_tokens - self._max_tokens)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Go on with the present text."""
        context = self._context
        tables = tuple(zip(_CONTEXTS, self._latest, self._earlier, strict=True))
        mask = self._mask
        for token in token_ids:
            context = (*context[1 - _CONTEXTS[0] :], token)
            slot = self._put(self._tokens, token)
            self.num_tokens += 1
            for length, latest, earlier in tables:
                if len(context) < length:
                    self._set(earlier, slot, 0)
                    continue
                key = hash(context[-length:]) & mask
                self._set(earlier, slot, latest[key])
                latest[key] = self.num_tokens
        self._context = context

    def end_text(self) -> None:
        """What comes next is another text, which no match may reach across."""
        slot = self._put(self._tokens, _END_OF_TEXT)
        self.num_tokens += 1
        for earlier in self._earlier:
            self._set(earlier, slot, 0)
        self._context = ()

    def places(self, tail: Sequence[int]) -> list[Place]:
        """Places that followed the end of `tail` before, latest first; those of one context.

        `tail` may go on where the present text ends. A place that nothing follows yet is none.
        """
        for length, latest, earlier in zip(_CONTEXTS, self._latest, self._earlier, strict=True):
            if len(tail) < length:
                continue
            place = latest[hash(tuple(tail[-length:])) & self._mask]
            found = self._chain(place, earlier, tail, length)
            if found:
                return found
        return []

    def following(self, position: int, num_tokens: int) -> list[int]:
        """At most so many tokens from a kept position on, to the end of its text."""
        end = min(position + num_tokens, self.num_tokens)
        first, last = position % self._max_tokens, end % self._max_tokens
        if position < end and last <= first:
            tokens = self._tokens[first : self._max_tokens] + self._tokens[:last]
        else:
            tokens = self._tokens[first:last]
        return _until_end(tokens.tolist())

    def _chain(
        self, place: int, earlier: "array[int]", tail: Sequence[int], least: int
    ) -> list[Place]:
        found = []
        first = self.first_position
        for _ in range(_MOST_PLACES):
            if place <= first:
                break
            if place < self.num_tokens and self._tokens[place % self._max_tokens] >= 0:
                num_matching = self._num_matching(place, tail)
                if num_matching >= least:
                    found.append(Place(place, num_matching))
            place = earlier[(place - 1) % self._max_tokens]
        return found

    def _num_matching(self, place: int, tail: Sequence[int]) -> int:
        tokens, size = self._tokens, self._max_tokens
        most = min(LONGEST_MATCH, len(tail), place - self.first_position)
        for num_matching in range(most):
            if tokens[(place - 1 - num_matching) % size] != tail[-1 - num_matching]:
                return num_matching
        return most

    def _put(self, values: "array[int]", value: int) -> int:
        """Write the next position's value, over the oldest one once all room is used."""
        slot = self.num_tokens % self._max_tokens
        self._set(values, slot, value)
        return slot

    def _set(self, values: "array[int]", slot: int, value: int) -> None:
        if slot == len(values):
            values.append(value)
        else:
            values[slot] = value


def _until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(_END_OF_TEXT)] if _END_OF_TEXT in tokens else tokens


def slots_for(num_tokens: int) -> int:
    """A good `num_slots` for so many tokens, at least one: a slot for each, or a few more."""
    return 1 << (num_tokens - 1).bit_length()
