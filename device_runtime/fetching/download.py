"""One bundle on its way here, as a state machine: what to ask for next, and when to give up.

It performs nothing: a shell asks, writes, hashes and waits as the actions say, and tells it what
came of that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from device_runtime.fetching.listing import FetchError, NotLetInError, Wanted

_STEP_BYTES = 1 << 16
"""In the time of its patience so much has to come, or the rest of a file."""

REFUSED_SECRET = "the cloud refused this device's secret"

_MIN_RETRY_S = 0.25
_MAX_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the cloud for a file from this byte on; what comes is written behind what is here."""

    file: Wanted
    start: int


@dataclass(frozen=True, slots=True)
class Check:
    """All bytes of a file are here: hash them."""

    file: Wanted


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove what is here of a file, then ask what is next."""

    file: Wanted


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so long, then ask what is next."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class LookAgain:
    """The cloud serves another bundle by now."""


@dataclass(frozen=True, slots=True)
class Done:
    """Every file is here, and is what the manifest says."""


Action = Ask | Check | Forget | Pause | LookAgain | Done


class Download:
    """Fetches files one after the other; of each, what is here is not fetched again.

    Args:
        files: What is wanted.
        kept: By SHA-256, how many bytes of a file are here from before.
        now: The time, as in all that follows, in seconds of one clock.
        patience_s: So long less than 64 KiB may come before it is given up.
    """

    def __init__(
        self, files: Sequence[Wanted], kept: Mapping[str, int], now: float, patience_s: float
    ) -> None:
        self._files = tuple(files)
        self._num_here = {each.sha256: kept.get(each.sha256, 0) for each in files}
        self._doubtful = {sha256 for sha256, num_bytes in self._num_here.items() if num_bytes}
        """Some bytes of them came from before: if they are wrong, the file is fetched again."""
        self._most_bytes = self._counted_bytes = self.num_bytes
        self._place = 0
        self._attempt = 0
        self._progress_s = now
        self._patience_s = patience_s

    @property
    def num_bytes(self) -> int:
        """How many bytes are here, checked or not."""
        return sum(self._num_here.values())

    def next(self) -> Action:
        """What to do now; it stays the same until something is told."""
        if self._place == len(self._files):
            return Done()
        file = self._files[self._place]
        num_here = self._num_here[file.sha256]
        if num_here > file.num_bytes:
            return Forget(file)
        return Check(file) if num_here == file.num_bytes else Ask(file, num_here)

    def on_head(self, start: int, total: int | None) -> None:
        """The cloud answers, from byte `start` on, of `total` in all if it says so.

        A cloud or proxy that knows no ranges begins at 0: then what is here is written over.

        Raises:
            FetchError: that is not what was asked for.
        """
        file, num_here = self._asked
        if total is not None and total != file.num_bytes:
            raise FetchError(
                f"{file.name} has {file.num_bytes} bytes by the manifest, and the cloud sends "
                f"{total}"
            )
        if start not in (0, num_here):
            raise FetchError(f"{file.name} was asked for from byte {num_here}, and {start} came")
        self._num_here[file.sha256] = start
        if start == 0:
            self._doubtful.discard(file.sha256)

    def on_bytes(self, num_bytes: int, now: float) -> None:
        """So many more bytes came; they are written only if this returns.

        Raises:
            FetchError: they are more than the file has, or come too slowly.
        """
        file, num_here = self._asked
        if num_here + num_bytes > file.num_bytes:
            raise FetchError(f"{file.name} is longer than the {file.num_bytes} bytes it should be")
        self._num_here[file.sha256] += num_bytes
        # What comes again is no progress: a cloud could begin anew for ever.
        if self.num_bytes > self._most_bytes:
            self._most_bytes, self._attempt = self.num_bytes, 0
        num_new = self._most_bytes - self._counted_bytes
        if num_new >= _STEP_BYTES or (num_new and num_here + num_bytes == file.num_bytes):
            self._counted_bytes, self._progress_s = self._most_bytes, now
        elif now - self._progress_s > self._patience_s:
            raise FetchError(f"{file.name} comes too slowly{self._since}")

    def on_end(self, reason: str, now: float, draw: float) -> Action:
        """The answer ended, or there was none; `reason` says why, if not all came.

        `draw` is uniform in [0, 1).

        Raises:
            FetchError: nothing came for too long.
        """
        file, num_here = self._asked
        if num_here == file.num_bytes:
            return self.next()
        return self._pause(reason, 0.0, now, draw)

    def on_refused(self, status: int, retry_after_s: float, now: float, draw: float) -> Action:
        """The cloud answered with another status than 200 and 206.

        Raises:
            FetchError: that will not change.
        """
        file, _ = self._asked
        if status == 410:
            return LookAgain()
        if status in (429, 503) or status >= 500:
            return self._pause(f"the cloud answers HTTP {status}", retry_after_s, now, draw)
        if status == 416 and file.sha256 in self._doubtful:
            # Not what came just now: a cloud could take its own bytes back for ever.
            self._num_here[file.sha256] = file.num_bytes + 1
            return self.next()
        if status in (401, 403):
            raise NotLetInError(f"{REFUSED_SECRET} when asked for {file.name}")
        raise FetchError(f"the cloud answers HTTP {status} when asked for {file.name}")

    def on_forgotten(self) -> None:
        """What was here of a file is removed."""
        file, _ = self._asked
        self._num_here[file.sha256] = 0
        self._doubtful.discard(file.sha256)
        self._most_bytes = self._counted_bytes = self.num_bytes

    def on_checked(self, sha256: str) -> Action:
        """The bytes of a file have this hash.

        Raises:
            FetchError: it is the wrong one, though all of them came from the cloud just now.
        """
        file, _ = self._asked
        if sha256 == file.sha256:
            self._place += 1
            return self.next()
        if file.sha256 in self._doubtful:
            return Forget(file)
        raise FetchError(
            f"{file.name} came with SHA-256 {sha256}, and the manifest says {file.sha256}: the "
            "cloud, or something before it, sends other bytes"
        )

    @property
    def _asked(self) -> tuple[Wanted, int]:
        file = self._files[self._place]
        return file, self._num_here[file.sha256]

    @property
    def _since(self) -> str:
        return f"; less than {_STEP_BYTES >> 10} KiB came in {self._patience_s:.0f} s"

    def _pause(self, reason: str, least_s: float, now: float, draw: float) -> Pause:
        if now - self._progress_s > self._patience_s:
            raise FetchError(f"{reason}{self._since}")
        delay_s = pause_s(self._attempt, draw)
        self._attempt += 1
        return Pause(max(delay_s, min(least_s, _MAX_RETRY_S)), reason)


def pause_s(attempt: int, draw: float) -> float:
    """Seconds before the question after number `attempt` (from 0): doubling, half of it by chance.

    `draw` is uniform in [0, 1).
    """
    return min(_MAX_RETRY_S, _MIN_RETRY_S * 2.0 ** min(attempt, 32)) * (0.5 + 0.5 * draw)
