"""`hat bench make-model`: a random checkpoint in the shape of a real one."""

from pathlib import Path

import click

from bench.model_shapes import SHAPES
from hat.errors import CommandError

_EPILOG = """
\b
Example:
  hat bench make-model 110m --out model-110m
  hat split model-110m --out bundles-110m

\b
Shapes:
  tiny    3 layers of width 32, for tests
  110m    12 layers of width 768, 12 heads; 162 million parameters with its vocabulary
  1.1b    TinyLlama's: 22 layers of width 2048, 32 heads, 4 KV heads; 1.17 billion

The vocabulary is GPT-2's, with its tokenizer. Weights are noise: such a model is for measuring
times and bytes. config.json says so (hat_random_weights), and no acceptance is to be taken from it;
its greedy text runs in circles, which flatters a drafter that looks up what was said.
"""


@click.command("make-model", epilog=_EPILOG)
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.option("--out", required=True, metavar="DIR", help="Folder to write; new or empty.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="The same seed gives the same bytes.  [default: 0]",
)
def make_model(shape: str, out: str, seed: int) -> None:
    """Write a checkpoint of seeded random weights, in bfloat16.

    It is written piece by piece, so that a model need not fit in memory.
    """
    from bench.models import make_model as write_model

    try:
        made = write_model(shape, Path(out), seed)
    except OSError as error:
        raise CommandError(f"cannot write a model to {out}: {error.strerror or error}") from error
    click.echo(
        f"Wrote {made.num_parameters / 1e6:,.1f} million random parameters, seed {seed}, "
        f"{made.num_bytes / 1e9:.2f} GB, to {made.folder}."
    )
