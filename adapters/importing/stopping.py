"""Where the drafts of a head end of which nothing is known but what a step of it takes."""

from adapters.draft_cost import DraftCost

# Of drafts that are worth having: chains of published heads reach about so many.
_TOKENS_PER_ROUND = 2.5
_LEAST, _MOST = 0.05, 0.9
_STEPS_PER_UNIT = 20


def threshold_at(cost: DraftCost) -> float:
    """The stop threshold, in steps of 0.05.

    A round that brings 2.5 tokens takes 1 / 2.5 of a round for each. A step and its row, which take
    a share c of a round, are worth it if their token is right with a chance of 2.5 c or more, and a
    drafter's top probability is about that chance.
    """
    wanted = _TOKENS_PER_ROUND * (cost.step + cost.row)
    return min(max(round(_STEPS_PER_UNIT * wanted) / _STEPS_PER_UNIT, _LEAST), _MOST)
