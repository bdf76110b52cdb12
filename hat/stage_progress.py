"""A bar on stderr for work in stages, if that is a terminal."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.options import Progress, StageProgress

_TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "states": "running the whole model over the text",
        "training": "training",
        "calibration": "choosing the stop threshold",
        "evaluation": "drafting",
    }
)


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
            self._bar = tqdm(total=progress.total, desc=_TEXTS[progress.stage], disable=None)
        if progress.loss is not None:
            self._bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
        # A resumed training begins in the middle, and a timed one learns its length on the way.
        self._bar.total = progress.total
        self._bar.update(progress.done - self._bar.n)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
