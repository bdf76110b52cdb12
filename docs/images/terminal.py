"""What a recorded terminal showed, from what it was sent when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

NUM_COLUMNS = 88
TIME_COLUMNS = len("2026-01-01 00:00:00.000")
CURSOR = "\u258b"

Written = Sequence[tuple[float, str]]
"""When (seconds), and what a terminal was sent."""


@dataclass(frozen=True, slots=True)
class Run:
    """Something that comes and goes: in a terminal, characters side by side."""

    row: int
    column: int
    text: str
    kind: str
    come_s: float
    gone_s: float


class Screen:
    """A dumb terminal, long enough never to scroll, that breaks its lines between words."""

    def __init__(self) -> None:
        self._lines = [""]
        self._column = 0

    def write(self, text: str) -> None:
        """Take what a program writes."""
        for character in text:
            if character == "\n":
                self._lines.append("")
            elif character == "\r":
                self._column = 0
            elif character == "\b":
                self._column -= 1
            elif character.isprintable():
                line = self._lines[-1]
                self._lines[-1] = line[: self._column] + character + line[self._column + 1 :]
                self._column += 1

    def cells(self) -> dict[tuple[int, int], tuple[str, str]]:
        """The character and its class, by row and column."""
        rows = [row for line in self._lines for row in _broken(line)]
        shown = {(len(rows) - 1, len(rows[-1])): (CURSOR, "cursor")}
        for r, row in enumerate(rows):
            kind = "typed" if row[:2] in {"$ ", "> "} else "red" if "Killed" in row else ""
            num_faint = TIME_COLUMNS if row[:4].isdigit() else 0
            for c, character in enumerate(row):
                shown[r, c] = character, "faint" if c < num_faint else kind
        return shown


def _broken(line: str) -> Iterator[str]:
    while len(line) > NUM_COLUMNS:
        end = line.rfind(" ", 1, NUM_COLUMNS + 1)
        end = NUM_COLUMNS if end < 0 else end
        yield line[:end]
        line = line[end:].removeprefix(" ")
    yield line


def runs(written: Written, end_s: float) -> Iterator[Run]:
    """All that a terminal ever showed, row by row."""
    screen, cells = Screen(), []
    since: dict[tuple[int, int], Run] = {}
    for at_s, frame in groupby(written, key=lambda each: each[0]):
        screen.write("".join(text for _, text in frame))
        shown = screen.cells()
        for place, cell in list(since.items()):
            if shown.get(place) != (cell.text, cell.kind):
                cells.append(replace(since.pop(place), gone_s=at_s))
        for place, (character, kind) in shown.items():
            since.setdefault(place, Run(*place, character, kind, at_s, end_s))
    cells += since.values()
    cells.sort(key=lambda cell: (cell.row, cell.come_s, cell.gone_s, cell.column))
    run = cells[0]
    for cell in cells[1:]:
        if cell == replace(run, column=run.column + len(run.text), text=cell.text):
            run = replace(run, text=run.text + cell.text)
        else:
            yield run
            run = cell
    yield run
