"""What drafting may cost before it has paid: the bound of the worst case."""

MOST_ROUNDS = 4.0
"""So many rounds of plain decoding may be lost at once, on a drafter that promised something."""

PER_TOKEN = 0.0075
"""So much more for each token decided: 0.75 % in the long run."""


_LEAST_ROUNDS = -0.5
"""A draft that stalls for a second is not held against the next thousand."""


class Allowance:
    """An account in rounds of plain decoding, that drafting lives on.

    A draft is paid in advance with the time that it takes more than plain decoding, and may cost at
    most what is there. Each accepted token pays in the round that it saved. The account never holds
    more than `MOST_ROUNDS`, so what good times earned cannot be lost in bad ones. Therefore in any
    stretch of n tokens drafting costs at most `MOST_ROUNDS + PER_TOKEN * n` rounds more than plain
    decoding takes: from `NUM_TOKENS_OF_WARM_UP` tokens on at most 2 %, whatever drafters say and
    however fast they change, as long as drafts cost what they did before.
    """

    def __init__(self, rounds: float = MOST_ROUNDS) -> None:
        self.rounds = rounds
        """What a draft may cost now."""

    def on_round(self, cost_rounds: float, num_accepted: int) -> None:
        """Take a round: what its draft cost, and the tokens that need no round of their own."""
        earned = num_accepted + PER_TOKEN * (num_accepted + 1)
        self.rounds = min(MOST_ROUNDS, max(_LEAST_ROUNDS, self.rounds - cost_rounds) + earned)


NUM_TOKENS_OF_WARM_UP = 500
"""In as many tokens or more at most 2 % are lost: 4 rounds and 0.75 %, with a fifth of it left
for what costs more than it was thought to."""
