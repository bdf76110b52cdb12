"""Work in stages on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from adapters.options import Progress, StageProgress

_TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "states": "running the whole model over the text",
        "training": "training",
        "calibration": "drafting on held-out text",
        "evaluation": "drafting",
    }
)
_UNITS: Mapping[str, str] = MappingProxyType({"states": "windows", "training": "steps"})

_LINE_EVERY_S = 30.0


def stage_progress() -> "AbstractContextManager[Progress]":
    """Bars or lines, whichever stderr is good for."""
    return StageBars() if sys.stderr.isatty() else StageLines(sys.stderr, time.monotonic)


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
        loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        unit = _UNITS.get(progress.stage, "prompts")
        done = f"{progress.done} of {progress.total} {unit}"
        print(f"{_TEXTS[progress.stage]}: {done}{loss}", file=self._stream, flush=True)
        self._shown_s, self._is_shown = self._clock(), True


class StageBars:
    """One bar after another, a new one when the stage changes."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __enter__(self) -> "Progress":
        return self._show

    def __exit__(self, *raised: object) -> None:
        self._end()

    def _show(self, progress: "StageProgress") -> None:
        if progress.stage != self._stage:
            from tqdm import tqdm

            self._end()
            self._stage = progress.stage
            self._bar = tqdm(total=progress.total, desc=_TEXTS[progress.stage])
        if progress.loss is not None:
            self._bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
        # A resumed training begins in the middle, and a timed one learns its length on the way.
        self._bar.total = progress.total
        self._bar.update(progress.done - self._bar.n)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
