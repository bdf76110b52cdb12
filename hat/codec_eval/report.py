"""What codecs cost, as a table to read and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hat.codec_eval.measure import WAYS, CodecResult, Tally
from submodels.manifest import Manifest

_GROUPS = ("", "bits a", "same argmax", "", "", "KL, nats", "", "", "perplexity")
_HEADER = ("codec", "number", *WAYS, *WAYS, WAYS[-1])


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured."""

    manifest: Manifest
    text: str
    """Its name."""
    piece_tokens: int
    wire_dtype: str
    reference: str | None
    """The name of other bundles whose model is the reference, if it is not this one itself."""


def rendered(subject: Subject, results: Sequence[CodecResult]) -> str:
    """A headline and a table."""
    manifest, tally = subject.manifest, results[0].ways["both"]
    rotated = ", rotated" if manifest.wire_rotation is not None else ""
    against = "itself without a codec" if subject.reference is None else subject.reference
    lines = [
        f"{manifest.model_name}: {manifest.num_input_layers} input, {manifest.num_middle_layers} "
        f"middle and {manifest.num_output_layers} output layers, {manifest.dtype}{rotated}; "
        f"{manifest.shape.hidden_size} numbers a row",
        f"{tally.num_positions:,} positions of {subject.text} in pieces of {subject.piece_tokens}, "
        f"held against {against} in float32 (perplexity {tally.clean_perplexity:.2f})",
        "",
    ]
    return "\n".join(lines + _table([_GROUPS, _HEADER, *map(_row, results)]))


def as_json(subject: Subject, results: Sequence[CodecResult]) -> dict[str, Any]:
    """The same for programs."""
    manifest, tally = subject.manifest, results[0].ways["both"]
    return {
        "model": manifest.model_name,
        "fingerprint": manifest.fingerprint,
        "dtype": manifest.dtype,
        "wire_dtype": subject.wire_dtype,
        "rotated": manifest.wire_rotation is not None,
        "text": subject.text,
        "piece_tokens": subject.piece_tokens,
        "reference": subject.reference,
        "num_positions": tally.num_positions,
        "clean_perplexity": tally.clean_perplexity,
        "codecs": [
            {"name": result.name, **{way: _figures(result.ways[way]) for way in WAYS}}
            for result in results
        ],
    }


def _figures(tally: Tally) -> dict[str, float | None]:
    return {
        "bits_per_value": tally.bits_per_value if tally.num_values else None,
        "argmax_agreement": tally.agreement,
        "kl_nats": tally.mean_kl,
        "perplexity_change": tally.perplexity_change,
    }


def _row(result: CodecResult) -> tuple[str, ...]:
    tallies = [result.ways[way] for way in WAYS]
    bits = f"{tallies[-1].bits_per_value:.2f}" if tallies[-1].num_values else ""
    return (
        result.name,
        bits,
        *(f"{tally.agreement:.4f}" for tally in tallies),
        *(f"{tally.mean_kl:.5f}" for tally in tallies),
        f"{tallies[-1].perplexity_change:+.2%}",
    )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Names to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:<{width}}" if column == 0 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
