"""Whether all arms gave the same answers, as they must: only the way there differs."""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.records import Cell


@dataclass(frozen=True, slots=True)
class Difference:
    """A request that two arms answered differently."""

    setting: str
    repeat: int
    number: int
    arm: str
    reference: str

    def __str__(self) -> str:
        return (
            f"{self.arm} and {self.reference} gave different texts for prompt {self.number} "
            f"({self.setting}, pass {self.repeat})"
        )


def different_texts(cells: Iterable[Cell]) -> list[Difference]:
    """Answers that are not what the first arm said, setting by setting.

    With temperature 0 the answer follows from the prompt; else from prompt and seed, since noise
    belongs to positions. Answers that failed are left out.
    """
    first: dict[tuple[str, str, int], tuple[str, str]] = {}
    found = []
    for cell in cells:
        for request in cell.requests:
            if request.error is not None:
                continue
            key = (cell.setting, cell.model.fingerprint, request.number)
            arm, sha256 = first.setdefault(key, (cell.arm, request.output_sha256))
            if sha256 != request.output_sha256:
                found.append(Difference(cell.setting, cell.repeat, request.number, cell.arm, arm))
    return found
