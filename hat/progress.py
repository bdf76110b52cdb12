"""How far long work is, on stderr: a bar on a terminal, and for stages a line now and then."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from adapters.options import Progress, StageProgress

_TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "writing": "the model writes conversations",
        "states": "running the whole model over the text",
        "start": "solving for a start",
        "training": "training",
        "calibration": "drafting on held-out text",
        "evaluation": "drafting",
    }
)
_UNITS: Mapping[str, str] = MappingProxyType(
    {"writing": "conversations", "states": "windows", "start": "parts", "training": "steps"}
)

_LINE_EVERY_S = 30.0
_BYTES_LINE_EVERY_S = 10.0


class Bars:
    """One bar after another, if stderr is a terminal; tqdm is loaded with the first of them."""

    def __init__(self, *, stay: bool = False) -> None:
        self._stays = stay
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def begin(self, what: str | None, total: int, **look: Any) -> None:
        """Close the bar of the part before and show that of the next; `look` is tqdm's."""
        from tqdm import tqdm

        self.__exit__()
        self._bar = tqdm(total=total, desc=what, leave=self._stays, disable=None, **look)

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def reach(self, done: int, total: int) -> None:
        """So much of so much is done; both may differ from what was thought."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def say(self, what: str, **figures: str) -> None:
        """Another text before the bar, and figures behind it."""
        self._bar.set_description(what, refresh=not figures)
        if figures:
            self._bar.set_postfix(refresh=False, **figures)


def stage_progress() -> "AbstractContextManager[Progress]":
    """Bars or lines, whichever stderr is good for."""
    return StageBars() if sys.stderr.isatty() else StageLines(sys.stderr, time.monotonic)


class FetchProgress:
    """A bar on a terminal, else a line now and then, for bytes that come."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._bars: Bars | None = Bars(stay=True) if stream.isatty() else None
        self._shown_s: float | None = None

    def __enter__(self) -> "Callable[[int, int], None]":
        return self._take

    def __exit__(self, *raised: object) -> None:
        if self._bars is not None:
            self._bars.__exit__()

    def _take(self, done: int, total: int) -> None:
        now = self._clock()
        is_first = self._shown_s is None
        if self._bars is not None:
            if is_first:
                self._bars.begin("fetching the bundle", total, unit="B", unit_scale=True)
            self._bars.reach(done, total)
        elif self._shown_s is None or now - self._shown_s >= _BYTES_LINE_EVERY_S:
            share = f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
            print(f"fetching the bundle: {share}", file=self._stream, flush=True)
        else:
            return
        self._shown_s = now
        if done >= total:
            # Another one may be fetched later.
            self.__exit__()
            self._shown_s = None


def _figures(progress: "StageProgress") -> dict[str, str]:
    """How good a training is so far."""
    figures = {"loss": progress.loss, "tokens/round": progress.tokens_per_round}
    return {name: f"{value:.3f}" for name, value in figures.items() if value is not None}


class StageBars:
    """A new bar when the stage changes."""

    def __init__(self) -> None:
        self._bars = Bars(stay=True)
        self._stage = ""

    def __enter__(self) -> "Progress":
        return self._show

    def __exit__(self, *raised: object) -> None:
        self._bars.__exit__()

    def _show(self, progress: "StageProgress") -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._bars.begin(_TEXTS[progress.stage], progress.total)
        figures = _figures(progress)
        if figures:
            self._bars.say(_TEXTS[progress.stage], **figures)
        # A resumed training begins in the middle, and a timed one learns its length on the way.
        self._bars.reach(progress.done, progress.total)


class StageLines:
    """One line when a stage begins and when it ends, and one every half a minute."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._shown_s = 0.0
        self._last: StageProgress | None = None
        self._is_shown = True

    def __enter__(self) -> "Progress":
        return self._take

    def __exit__(self, *raised: object) -> None:
        self._end_stage()

    def _take(self, progress: "StageProgress") -> None:
        is_new = self._last is None or progress.stage != self._last.stage
        if is_new:
            self._end_stage()
        self._last, self._is_shown = progress, False
        if is_new or self._clock() - self._shown_s >= _LINE_EVERY_S:
            self._show(progress)

    def _end_stage(self) -> None:
        if self._last is not None and not self._is_shown:
            self._show(self._last)

    def _show(self, progress: "StageProgress") -> None:
        figures = "".join(f", {name} {value}" for name, value in _figures(progress).items())
        unit = _UNITS.get(progress.stage, "prompts")
        done = f"{progress.done} of {progress.total} {unit}"
        print(f"{_TEXTS[progress.stage]}: {done}{figures}", file=self._stream, flush=True)
        self._shown_s, self._is_shown = self._clock(), True
