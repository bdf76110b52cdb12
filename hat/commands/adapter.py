"""`hat adapter`: train the network that drafts, and measure what it brings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hat.bundle_cache import is_bundle_pair
from hat.errors import CommandError
from hat.missing_packages import extras_explained
from hat.stage_progress import StageBars

if TYPE_CHECKING:
    from adapters.train import TrainedAdapter

_TRAIN_EPILOG = """
\b
Examples:
  hat adapter train stories --text TinyStories-train.txt
  hat adapter train stories --text a.txt --text b.txt --held-out c.txt --minutes 60

Text files hold documents with a line <|endoftext|> between them. Interrupted, the same command
goes on from its last checkpoint, at most a minute back. The adapter then lies in the device
bundle, and `hat device` drafts with it; copy that folder again where the device is another machine.
"""

_EVAL_EPILOG = """
\b
Example:
  hat adapter eval stories --text TinyStories-valid.txt

Use text that the adapter was not trained on. Every prompt is continued by the model itself, and a
draft is made from each position; docs/adapters.md says what the columns mean.
"""


@click.group()
def adapter() -> None:
    """Train and evaluate the drafting adapter.

    An adapter is a small network on the device that guesses what the cloud's layers would say, so
    that one answer of the cloud decides several tokens. It never changes what is generated.
    """


_bundle_argument = click.argument("bundle")
_text_option = click.option(
    "--text", multiple=True, required=True, metavar="FILE", help="Text file; may be repeated."
)
_device_option = click.option(
    "--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:1.  [default: cpu]"
)


@adapter.command(epilog=_TRAIN_EPILOG)
@_bundle_argument
@_text_option
@click.option(
    "--held-out",
    multiple=True,
    metavar="FILE",
    help="Text to choose the stop threshold on; left out: every twentieth document of --text.",
)
@click.option(
    "--kind",
    type=click.Choice(["layer", "attention"]),
    default="layer",
    help="A decoder layer, or its attention half as in the paper.  [default: layer]",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    metavar="N",
    help="Time for the training itself.  [default: 10]",
)
@click.option(
    "--work",
    metavar="DIR",
    help="Folder for states and checkpoints, up to 4 GiB; left out: BUNDLE/adapter-KIND.",
)
@_device_option
def train(bundle: str, **parameters: Any) -> None:
    """Train an adapter on text files and put it into the device bundle.

    BUNDLE is the folder that `hat split` wrote, with both its parts.
    """
    folder, kind = _bundle_pair(bundle), parameters["kind"]
    work = Path(parameters["work"] or folder / f"adapter-{kind}")
    with _failures_explained(), StageBars() as progress:
        from adapters.install import install_adapter
        from adapters.options import TrainOptions
        from adapters.train import train as train_adapter

        options = TrainOptions(
            device_bundle=folder,
            cloud_bundle=folder,
            text=_paths(parameters["text"]),
            held_out=_paths(parameters["held_out"]),
            work=work,
            kind=kind,
            minutes=parameters["minutes"],
            out=work / "adapter",
            device=parameters["device"],
        )
        trained = train_adapter(options, progress)
        install_adapter(folder, trained.path)
    click.echo(_summary(trained, folder))


@adapter.command("eval", epilog=_EVAL_EPILOG)
@_bundle_argument
@_text_option
@click.option(
    "--num-prompts",
    type=click.IntRange(min=1),
    default=160,
    metavar="N",
    help="Documents to draft on.  [default: 160]",
)
@_device_option
def evaluate(bundle: str, **parameters: Any) -> None:
    """Print tokens per round and acceptance by position of a bundle's adapter.

    BUNDLE is the folder that `hat split` wrote, with both its parts.
    """
    folder = _bundle_pair(bundle)
    with _failures_explained(), StageBars() as progress:
        from adapters.evaluate import evaluate as evaluate_adapter
        from adapters.options import EvaluateOptions, TrialOptions
        from adapters.report import render_report

        options = EvaluateOptions(
            device_bundle=folder,
            cloud_bundle=folder,
            text=_paths(parameters["text"]),
            trials=TrialOptions(num_prompts=parameters["num_prompts"]),
            device=parameters["device"],
        )
        report = evaluate_adapter(options, progress)
    click.echo(render_report(report))


def _bundle_pair(bundle: str) -> Path:
    if not is_bundle_pair(Path(bundle)):
        raise CommandError(
            f"no bundles in {bundle}: expected the folder that `hat split` wrote, with device/ "
            "and cloud/"
        )
    return Path(bundle)


def _paths(names: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(Path(name) for name in names)


@contextmanager
def _failures_explained() -> Iterator[None]:
    """What the user can do something about becomes one line."""
    with extras_explained():
        from adapters.corpus import CorpusError
        from adapters.storage import AdapterError
        from submodels.errors import BundleError

        try:
            yield
        except (BundleError, CorpusError, AdapterError, OSError) as error:
            raise CommandError(str(error)) from error


def _summary(trained: "TrainedAdapter", folder: Path) -> str:
    card = trained.card
    figures = card.training
    return "\n".join(
        [
            f"Trained a {card.kind} adapter: {figures.steps} steps, loss {figures.loss:.3f}, "
            f"{figures.training_s / 60:.1f} minutes.",
            f"  held-out text, greedy: {figures.tokens_per_round:.2f} tokens per round with "
            f"{card.max_draft_tokens} drafted, {figures.stopped_tokens_per_round:.2f} with drafts "
            f"that stop below {card.stop_threshold:g}",
            f"  It lies in {folder / 'device'}, and `hat device` drafts with it.",
        ]
    )
