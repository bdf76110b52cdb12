"""What coding rows saves and takes: `python -m bench.steps.coding BUNDLES [--text FILE]`.

BUNDLES is what `hat split` wrote. The model reads a text in pieces of 256 tokens; rows of each
direction are coded in frames of 1, 5 and 256. Each time is the least of several passes over all
frames, coding and undoing it in turn, on one core. A link of the break-even rate takes as long for
the bytes that are saved as coding and undoing take together.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from adapters.data.whole_model import WholeModel, load_whole_model
from bench.machine import machine_lines
from submodels.bundle.bundle import load_bundle
from submodels.bundle.coding_file import read_channel_scales
from submodels.bundle.layer_weights import Placed
from wire.coding.exact import ExactCoder
from wire.coding.tables import centres_of
from wire.messages import Dtype
from wire.numbers import pack_rows

NUM_ROWS = (1, 5, 256)
_PIECE_TOKENS = 256
_NUM_PIECES = 8
_NUM_PASSES = 7
_MB = 1e6
_TEXT = Path(__file__).parents[1] / "workloads" / "data" / "books.txt"


@dataclass(frozen=True, slots=True)
class Coded:
    """Frames of so many rows: which share of RAW is left, and seconds per byte of RAW."""

    direction: str
    num_rows: int
    share: float
    encode_s: float
    decode_s: float

    @property
    def break_even_bytes_per_s(self) -> float:
        """A link as fast as this gains nothing."""
        return (1.0 - self.share) / (self.encode_s + self.decode_s)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path)
    parser.add_argument("--text", type=Path, default=_TEXT)
    parser.add_argument("--wire-dtype", choices=("bfloat16", "float16", "float32"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_whole_model(options.bundles / "device", options.bundles / "cloud", Placed())
    dtype = _DTYPES[options.wire_dtype or model.manifest.dtype]
    measured = list(_measured(model, options.bundles, options.text.read_text(), dtype))
    print("\n".join(machine_lines()))
    print(f"{model.manifest.model_name}, {dtype.name}, {options.text.name}\n")
    print(table(measured))


def table(measured: Sequence[Coded]) -> str:
    """As Markdown."""
    head = (
        "| rows | frame of | share of RAW | code, ms per MB | undo | break-even, Mbit/s |\n"
        "|---|---|---|---|---|---|"
    )
    lines = [
        f"| {each.direction} | {each.num_rows} | {each.share:.4f} | {each.encode_s * 1e3 * _MB:.1f}"
        f" | {each.decode_s * 1e3 * _MB:.1f} | {each.break_even_bytes_per_s * 8 / _MB:.0f} |"
        for each in measured
    ]
    return "\n".join((head, *lines))


_DTYPES = {"bfloat16": Dtype.BF16, "float16": Dtype.FP16, "float32": Dtype.FP32}


def _measured(model: WholeModel, bundles: Path, text: str, dtype: Dtype) -> Iterator[Coded]:
    tokenizer = Tokenizer.from_file(str(bundles / "device" / "tokenizer.json"))
    token_ids = tokenizer.encode(text[: 16 * _PIECE_TOKENS * _NUM_PIECES]).ids
    scales = read_channel_scales(load_bundle(bundles, "cloud"))
    starts = range(0, min(len(token_ids), _PIECE_TOKENS * _NUM_PIECES), _PIECE_TOKENS)
    with torch.inference_mode():
        pieces = [
            model.sequence().extend(token_ids[start : start + _PIECE_TOKENS], 0) for start in starts
        ]
    for direction, of_direction in (("up", scales.up), ("down", scales.down)):
        zeros = (0.0,) * model.manifest.shape.hidden_size
        coder = ExactCoder(dtype, centres_of(of_direction or zeros, dtype))
        rows = [piece.shallow if direction == "up" else piece.deep for piece in pieces]
        for num_rows in NUM_ROWS:
            frames = [frame for each in rows for frame in _frames(each.numpy(), num_rows, dtype)]
            yield _coded(coder, direction, num_rows, frames)


def _frames(rows: NDArray[Any], num_rows: int, dtype: Dtype) -> Iterator[bytes]:
    for start in range(0, len(rows) - num_rows + 1, num_rows):
        yield bytes(pack_rows(rows[start : start + num_rows], dtype))


def _coded(coder: ExactCoder, direction: str, num_rows: int, frames: Sequence[bytes]) -> Coded:
    """Every frame coded and undone, some times over.

    Raises:
        ValueError: a frame came back with other bits.
    """
    raw_bytes = sum(map(len, frames))
    encode_s = decode_s = float("inf")
    for _ in range(_NUM_PASSES):
        started_s = time.perf_counter()
        coded = [coder.encode(raw, num_rows) for raw in frames]
        encoded_s = time.perf_counter()
        plain = [payload and coder.decode(payload, num_rows) for payload in coded]
        done_s = time.perf_counter()
        encode_s = min(encode_s, encoded_s - started_s)
        decode_s = min(decode_s, done_s - encoded_s)
    for raw, again in zip(frames, plain, strict=True):
        if again is not None and bytes(again) != raw:
            raise ValueError("expected the bits that were coded, got others")
    sent_bytes = sum(
        len(raw if payload is None else payload) for raw, payload in zip(frames, coded, strict=True)
    )
    share = sent_bytes / raw_bytes
    return Coded(direction, num_rows, share, encode_s / raw_bytes, decode_s / raw_bytes)


if __name__ == "__main__":
    main()
