"""Recorded bandwidth: the traces beside this file, and people's own."""

from dataclasses import dataclass
from pathlib import Path

from bench.data_folder import data_folder
from bench.link.rates import RecordedRate
from bench.link.spec import LinkSpecError

_FOLDER = Path(__file__).parent / "traces"
_BYTES_PER_MBIT = 1e6 / 8

UPLINK_SHARE = 0.5
"""The uplink's rate as a part of the recorded downlink's: an assumption, see traces/README.md."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded downlink; `starts_s` begins at 0, the last rate ends at `end_s`."""

    starts_s: tuple[float, ...]
    bytes_per_s: tuple[float, ...]
    end_s: float

    def downlink(self, offset_s: float = 0.0) -> RecordedRate:
        """The recorded rates, begun at `offset_s`."""
        return RecordedRate(self.starts_s, self.bytes_per_s, self.end_s, offset_s)

    def uplink(self, offset_s: float = 0.0) -> RecordedRate:
        """The same curve at `UPLINK_SHARE`."""
        rates = [rate * UPLINK_SHARE for rate in self.bytes_per_s]
        return RecordedRate(self.starts_s, rates, self.end_s, offset_s)


def trace_names() -> list[str]:
    """The traces that are shipped."""
    return sorted(path.stem for path in _FOLDER.glob("*.txt"))


def load_trace(name: str) -> Trace:
    """Read a shipped trace, or a file: lines of seconds and Mbit/s, the last one ends it.

    Raises:
        LinkSpecError: there is no such trace, or the file is not one.
    """
    is_path = "/" in name or Path(name).suffix != ""
    if not is_path and name not in trace_names():
        data_folder(_FOLDER)
        raise LinkSpecError(
            f"trace: expected a file or one of {', '.join(trace_names())}; got {name}"
        )
    path = Path(name) if is_path else _FOLDER / f"{name}.txt"
    try:
        lines = path.read_text().splitlines()
        rows = [[float(word) for word in line.split()] for line in lines if line.strip()]
        if len(rows) < 2 or any(len(row) != 2 for row in rows):
            raise ValueError("expected two lines or more of seconds and Mbit/s")
        starts_s = tuple(row[0] - rows[0][0] for row in rows)
        rates = tuple(row[1] * _BYTES_PER_MBIT for row in rows[:-1])
        trace = Trace(starts_s[:-1], rates, starts_s[-1])
        trace.downlink()
    except OSError as error:
        raise LinkSpecError(f"trace {path}: {error.strerror}") from error
    except ValueError as error:
        raise LinkSpecError(f"trace {path}: {error}") from error
    return trace
