"""`hat codec-eval`: what the link's codecs cost a model's answers."""

import json
from pathlib import Path
from typing import Any

import click

from hat.bundle_cache import is_bundle_pair
from hat.early_interrupt import NothingBegun
from hat.errors import CommandError, extras_explained
from hat.progress import Bars

_EPILOG = """
\b
Examples:
  hat codec-eval smollm2
  hat codec-eval rotated --reference smollm2 --positions 20000
  hat codec-eval smollm2 --text my-texts.txt --json

The model runs over the text with every row through a codec: on the way up to the cloud, on the way
down, or both. Each time its next-token distributions are held against those without a codec: how
often the most probable token is the same, the mean KL divergence, and the change of the text's
perplexity. Everything computes in float32. docs/codecs.md says what the codecs are.

Arms with exact channels send as they are those that `hat split` found to be the largest. With
--reference the answers of other bundles of the same model are the standard, so that what
`hat split` changed (--dtype, --wire-rotation) counts too.
"""


@click.command("codec-eval", epilog=_EPILOG)
@click.argument("bundles")
@click.option("--text", metavar="FILE", help="Text to run over; left out: two books come with hat.")
@click.option(
    "--positions",
    type=click.IntRange(min=1, max=1 << 24),
    default=2048,
    metavar="N",
    help="How many, rounded up to whole pieces.  [default: 2048]",
)
@click.option(
    "--piece-tokens",
    type=click.IntRange(min=2, max=1 << 20),
    default=256,
    metavar="N",
    help="The text is cut into pieces of so many tokens.  [default: 256]",
)
@click.option(
    "--exact-channels",
    type=click.IntRange(min=0, max=64),
    default=6,
    metavar="N",
    help="Channels sent as they are in some arms; 0 leaves these out.  [default: 6]",
)
@click.option(
    "--wire-dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Number format of rows; left out: the bundles'.",
)
@click.option("--reference", metavar="BUNDLES", help="Other bundles to hold the answers against.")
@click.option(
    "--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:1.  [default: cpu]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def codec_eval(bundles: str, text: str | None, as_json: bool, **parameters: Any) -> None:
    """Measure what each codec costs on a model and a text.

    BUNDLES is the folder that `hat split` wrote.
    """
    reference = parameters["reference"]
    for folder in (bundles, reference):
        if folder is not None and not is_bundle_pair(Path(folder)):
            raise CommandError(f"{folder}: expected a folder that `hat split` wrote")
    with extras_explained(), NothingBegun():
        from hat.codec_eval import report
        from hat.codec_eval.run import EvalOptions, evaluate
    options = EvalOptions(
        bundles=Path(bundles),
        text=_built_in_text() if text is None else Path(text),
        num_positions=parameters["positions"],
        piece_tokens=parameters["piece_tokens"],
        num_channels=parameters["exact_channels"],
        wire_dtype=parameters["wire_dtype"],
        reference=None if reference is None else Path(reference),
        device=parameters["device"],
    )
    with extras_explained(), Bars() as bars:
        bars.begin("running the model", 1, unit="piece")
        subject, results = evaluate(options, bars.reach)
    if as_json:
        click.echo(json.dumps(report.as_json(subject, results)))
    else:
        click.echo(report.rendered(subject, results))


def _built_in_text() -> Path:
    """The benchmarks' books."""
    from bench.data_folder import data_folder
    from bench.workloads.data_files import DATA

    return data_folder(DATA) / "books.txt"
