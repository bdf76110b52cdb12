"""`hat bundle`: what `hat up` has another process do before it starts the two sides."""

import os
from typing import Any

import click

from hat.bundle_cache import bundles_of
from hat.commands.split import WeightsList
from hat.early_interrupt import interrupt_once
from hat.splitting import SplitRequest


@click.command(hidden=True)
@click.argument("model", required=False)
@click.option("--input-layers", type=click.IntRange(min=0))
@click.option("--output-layers", type=click.IntRange(min=0))
@click.option("--onnx-weights", type=WeightsList(), default="none")
def bundle(model: str | None, **parameters: Any) -> None:
    """Print the folder with both bundles of a model, split now if that was not done before.

    Whatever ends it but SIGKILL, nothing half-made is left.
    """
    interrupt_once()
    request = SplitRequest(
        parameters["input_layers"],
        parameters["output_layers"],
        "keep",
        parameters["onnx_weights"],
    )
    click.echo(bundles_of(model, request, os.environ))
