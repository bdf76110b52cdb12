"""What a round costs: a base, its drafted rows, and the steps of a drafter that computes."""

_FADING = 0.97
"""Weight of a round's time against the next one: about the last 33 count."""

_ROW_SHARE = 0.05
"""A drafted row's time as a share of a round's, until measured: 5 to 10 % for hidden size 4096
in 16 bits at 10 Mbit/s and 50 ms, less on faster links."""

_ROW_SHARE_WEIGHT = 0.5
"""How many rounds with one token more or less weigh as much as that assumption."""

_LITTLE_VARIATION = 2.0
"""As two rounds of which one has two rows more."""

_STEP_SHARE = 0.15
"""A draft step's time as a share of a round's, until measured: 5 to 30 % were seen."""

_STEP_FADING = 0.995
"""Weight of a round's steps against the next round without any."""

_LONGEST_SHARE = 3.0
"""A round counts as so many times the mean one at most: a stall of the link says little about
rows."""


class RoundCosts:
    """`round_s = base_s + num_rows * row_s + num_steps * step_s`, as of late."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._mean_rows = 0.0
        self._mean_s = 1.0
        self._variation = 0.0
        self._covariation = 0.0
        self._has_seen_rows = False
        self._has_seen_steps = False
        self._steps = 0.0
        self._steps_s = 0.0
        self.base_s = 1.0
        """The time of a round without a draft."""
        self.row_s = _ROW_SHARE
        """The time of one more drafted row."""

    @property
    def step_s(self) -> float:
        """The time of one more step of a drafter that computes."""
        return (self._steps_s + _STEP_SHARE * self.base_s) / (self._steps + 1.0)

    @property
    def is_new(self) -> bool:
        """Whether nothing was measured."""
        return self._weight == 0.0

    @property
    def has_seen_rows(self) -> bool:
        """Whether rounds of different lengths were ever measured."""
        return self._has_seen_rows

    @property
    def are_alike(self) -> bool:
        """Whether recent rounds are too much alike to tell what a row costs."""
        return self._variation < _LITTLE_VARIATION

    @property
    def has_seen_steps(self) -> bool:
        """Whether a step was ever measured."""
        return self._has_seen_steps

    def on_steps(self, num_steps: int, draft_s: float) -> None:
        """Take what a round's steps of drafting took, perhaps none.

        What was measured long ago gives way to the assumption, so that a drafter which was slow
        once is tried again.
        """
        self._has_seen_steps |= num_steps > 0
        fading = _FADING if num_steps else _STEP_FADING
        self._steps = self._steps * fading + num_steps
        self._steps_s = self._steps_s * fading + draft_s

    def on_round(self, num_rows: int, verify_s: float) -> None:
        """Take a round's time, the drafting not counted: Welford's update with weights."""
        old = self._weight * _FADING
        self._weight = old + 1.0
        if self._weight > _LONGEST_SHARE:
            verify_s = min(verify_s, _LONGEST_SHARE * self._expected_s(num_rows))
        off_rows, off_s = num_rows - self._mean_rows, verify_s - self._mean_s
        if old == 0.0:
            off_s, self._mean_s = 0.0, verify_s
        share = old / self._weight
        self._variation = self._variation * _FADING + share * off_rows * off_rows
        self._covariation = self._covariation * _FADING + share * off_rows * off_s
        self._mean_rows += off_rows / self._weight
        self._mean_s += off_s / self._weight
        self._has_seen_rows |= self._variation >= _LITTLE_VARIATION / 2
        self._fit()

    def _expected_s(self, num_rows: int) -> float:
        return self.base_s + num_rows * self.row_s

    def _fit(self) -> None:
        """A least-squares line that leans towards the assumed cost of a row.

        The base is positive and a row costs no less than nothing.
        """
        mean_s = max(self._mean_s, 1e-9)
        assumed_row_s = mean_s * _ROW_SHARE / (1.0 + _ROW_SHARE * self._mean_rows)
        row_s = (self._covariation + _ROW_SHARE_WEIGHT * assumed_row_s) / (
            self._variation + _ROW_SHARE_WEIGHT
        )
        self.row_s = max(row_s, 0.0)
        self.base_s = max(mean_s - self.row_s * self._mean_rows, 0.1 * mean_s)
