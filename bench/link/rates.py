"""How fast a link sends at which moment: always the same, or as somebody has recorded it.

Moments are seconds since the link was opened. Recordings lie beside this file; people have more.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.data_folder import data_folder
from bench.link.spec import LinkSpecError

UPLINK_SHARE = 0.5
"""The uplink's rate as a part of the recorded downlink's: an assumption, see traces/README.md."""

_TRACES = Path(__file__).parent / "traces"
_BYTES_PER_MBIT = 1e6 / 8


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """The same at all times; infinite is no limit."""

    mean_bytes_per_s: float

    def sent_at(self, start_s: float, num_bytes: int) -> float:
        """When the last of so many bytes is sent whose first is at `start_s`."""
        return start_s + num_bytes / self.mean_bytes_per_s


class RecordedRate:
    """Constant between the recording's moments, and from its end on all over again.

    Args:
        starts_s: When each rate begins; the first is 0, each later than the one before.
        bytes_per_s: The rates, shape [len(starts_s)]; 0 is an outage.
        end_s: When the last rate ends and the first begins again.
        offset_s: Where in the recording the link begins.

    Raises:
        ValueError: moments out of order, a negative rate, or no byte ever sent.
    """

    def __init__(
        self,
        starts_s: Sequence[float],
        bytes_per_s: Sequence[float],
        end_s: float,
        offset_s: float = 0.0,
    ) -> None:
        bounds = [*starts_s, end_s]
        if not all(map(math.isfinite, [*bounds, *bytes_per_s])):
            raise ValueError("expected finite numbers")
        if not starts_s or bounds[0] != 0 or any(a >= b for a, b in itertools.pairwise(bounds)):
            raise ValueError("expected rising moments from 0 on")
        if len(bytes_per_s) != len(starts_s) or min(bytes_per_s) < 0 or max(bytes_per_s) <= 0:
            raise ValueError("expected one rate per moment, none negative, not all 0")
        self.period_s = end_s
        self._bounds_s = bounds
        self._rates = list(bytes_per_s)
        lengths_s = (b - a for a, b in itertools.pairwise(bounds))
        pieces = (rate * length_s for rate, length_s in zip(bytes_per_s, lengths_s, strict=True))
        self._sent = [0.0, *itertools.accumulate(pieces)]
        self._offset_s = offset_s

    @property
    def mean_bytes_per_s(self) -> float:
        """Over the whole recording."""
        return self._sent[-1] / self.period_s

    def at(self, moment_s: float) -> float:
        """The rate at a moment, in bytes per second."""
        inside_s = (moment_s + self._offset_s) % self.period_s
        return self._rates[self._piece(inside_s)]

    def sent_at(self, start_s: float, num_bytes: int) -> float:
        """When the last of so many bytes is sent; an outage makes it wait."""
        num_periods, inside_s = divmod(start_s + self._offset_s, self.period_s)
        piece = self._piece(inside_s)
        before = self._sent[piece] + self._rates[piece] * (inside_s - self._bounds_s[piece])
        more_periods, wanted = divmod(before + num_bytes, self._sent[-1])
        if wanted == 0:  # the last byte is the period's last: it is sent before the next begins
            more_periods, wanted = more_periods - 1, self._sent[-1]
        last = bisect.bisect_left(self._sent, wanted, 1) - 1
        end_s = self._bounds_s[last] + (wanted - self._sent[last]) / self._rates[last]
        return max(start_s, (num_periods + more_periods) * self.period_s + end_s - self._offset_s)

    def _piece(self, inside_s: float) -> int:
        return min(bisect.bisect_right(self._bounds_s, inside_s), len(self._rates)) - 1


Rate = ConstantRate | RecordedRate


def trace_names() -> list[str]:
    """The traces that are shipped."""
    return sorted(path.stem for path in _TRACES.glob("*.txt"))


def recorded_rates(trace: str, begin: float = 0.0) -> tuple[RecordedRate, RecordedRate]:
    """Uplink and downlink of a shipped trace or of a file, begun at this part of its length.

    A file has lines of seconds and Mbit/s of the downlink; the last line only ends it.

    Raises:
        LinkSpecError: there is no such trace, or the file is not one.
    """
    is_path = "/" in trace or Path(trace).suffix != ""
    if not is_path and trace not in trace_names():
        data_folder(_TRACES)
        known = ", ".join(trace_names())
        raise LinkSpecError(f"trace: expected a file or one of {known}; got {trace}")
    path = Path(trace) if is_path else _TRACES / f"{trace}.txt"
    try:
        lines = path.read_text().splitlines()
        rows = [[float(word) for word in line.split()] for line in lines if line.strip()]
        if len(rows) < 2 or any(len(row) != 2 for row in rows):
            raise ValueError("expected two lines or more of seconds and Mbit/s")
        *starts_s, end_s = (row[0] - rows[0][0] for row in rows)
        down = [row[1] * _BYTES_PER_MBIT for row in rows[:-1]]
        up = [rate * UPLINK_SHARE for rate in down]
        return (
            RecordedRate(starts_s, up, end_s, begin * end_s),
            RecordedRate(starts_s, down, end_s, begin * end_s),
        )
    except OSError as error:
        raise LinkSpecError(f"trace {path}: {error.strerror}") from error
    except ValueError as error:
        raise LinkSpecError(f"trace {path}: {error}") from error
