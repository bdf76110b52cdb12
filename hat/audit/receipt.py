"""What an audit writes down: enough to be made again, and nothing that differs from run to run."""

import math
from pathlib import Path
from typing import Final, Literal

import msgspec

from hat.audit.thresholds import Sizes, Thresholds
from hat.errors import CommandError
from process.errors import system_reason
from submodels.bundle.whole_file import replace_whole

FORMAT: Final = 1
PUBLIC: Final = 0.0
"""The distance of a device's ends from public ones, where they are these."""

Direction = Literal["up", "down"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A text file."""

    name: str
    sha256: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured; two audits with the same plan have the same figures."""

    model: str
    fingerprint: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    wire_dtype: str
    is_rotated: bool
    """Whether the bundles' states are."""
    input_layers: tuple[int, ...]
    output_layers: tuple[int, ...]
    codecs: tuple[str, ...]
    distances: tuple[float, ...]
    """How far the device's ends are from those that the attacker has; 0: he has these."""
    text: Source
    known: Source
    seed: int
    sizes: Sizes
    thresholds: Thresholds
    versions: dict[str, str]
    hardware: str
    commit: str


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What one attack recovered."""

    attack: str
    num_right: int
    num_tokens: int
    documents_read: int
    num_documents: int
    prior: float
    """The share of the commonest token among those to be recovered."""
    shuffled: float
    """What the same attack scores where labels are shuffled."""
    reads: bool
    """Whether the share of tokens is above the threshold."""
    num_pairs: int | None = None
    """Of an attack that learns from known pairs."""
    median_tried: int | None = None
    """Of a search: tokens tried at a position."""
    most_tried: int | None = None
    num_matched: int | None = None

    @property
    def share(self) -> float:
        """Of tokens."""
        return self.num_right / self.num_tokens

    def shuffled_most(self, thresholds: Thresholds) -> float:
        """The largest share that may be scored where labels are shuffled."""
        deviation = math.sqrt(self.prior * (1 - self.prior) / self.num_tokens)
        more = thresholds.shuffled_deviations * deviation
        return self.prior + thresholds.shuffled_above_prior + more


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What was recovered in one setting."""

    direction: Direction
    num_layers: int
    """Of the device, at the end where these rows pass."""
    codec: str
    distance: float
    figures: tuple[Figure, ...]
    perplexity_change: float | None = None
    """What the distance alone costs the model on the audited text; 0.01: one percent."""

    def figure(self, attack: str, num_pairs: int | None = None) -> Figure | None:
        """That of an attack, if it was measured."""
        found = [f for f in self.figures if (f.attack, f.num_pairs) == (attack, num_pairs)]
        return found[0] if found else None

    @property
    def place(self) -> tuple[Direction, int, str, float]:
        """Which setting this is."""
        return self.direction, self.num_layers, self.codec, self.distance


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the instrument says what is known beforehand."""

    attack: str
    planted: float
    """The share of tokens in documents with a planted leak."""
    found: float
    documents_read: int
    documents_planted: int
    passed: bool


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """An audit, finished or on its way."""

    format: int = FORMAT
    command: str
    plan: Plan
    num_documents: int
    num_tokens: int
    """Of the audited text, answers included."""
    rotation_found: bool | None = None
    """Whether served weights gave one away; None: the bundles are rotated, or cannot be."""
    controls: tuple[Control, ...] = ()
    cells: tuple[Cell, ...] = ()

    @property
    def planted_found(self) -> bool:
        """Whether every planted leak was found as large as it is."""
        return bool(self.controls) and all(control.passed for control in self.controls)

    @property
    def shuffled_not_found(self) -> bool:
        """Whether nothing was found where labels are shuffled."""
        figures = [figure for cell in self.cells for figure in cell.figures]
        thresholds = self.plan.thresholds
        return all(figure.shuffled <= figure.shuffled_most(thresholds) for figure in figures)

    @property
    def is_sound(self) -> bool:
        """Whether both kinds of controls say so."""
        return self.planted_found and self.shuffled_not_found

    def cell(self, direction: Direction, num_layers: int, codec: str, distance: float) -> Cell:
        """That of a setting.

        Raises:
            KeyError: it was not measured.
        """
        place = direction, num_layers, codec, distance
        for cell in self.cells:
            if cell.place == place:
                return cell
        raise KeyError(place)


def read_receipt(path: Path) -> Receipt | None:
    """What an earlier run left; None where there is nothing.

    Raises:
        CommandError: another file lies there, or one of another release.
    """
    try:
        receipt = msgspec.json.decode(path.read_bytes(), type=Receipt)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(f"cannot read {path}: {system_reason(error)}") from error
    except msgspec.DecodeError as error:
        raise CommandError(f"{path}: expected a receipt of `hat audit`, got {error}") from error
    if receipt.format != FORMAT:
        raise CommandError(f"{path}: expected a receipt of format {FORMAT}, got {receipt.format}")
    return receipt


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Put it in place of what is there, whole or not at all.

    Raises:
        CommandError: it cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(receipt), indent=1) + b"\n"
    try:
        replace_whole(path, text)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {system_reason(error)}") from error
