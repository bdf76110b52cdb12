"""`hat adapter`: train the network that drafts, and measure what it brings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from hat.bundle_cache import is_bundle_pair
from hat.errors import CommandError, failures_explained
from hat.progress import stage_progress
from hat.settings.options import FiniteRange
from hat.training_report import installed_line, kept_line, training_report

NOT_BETTER = 3
"""Exit code of a training whose adapter is not worth its place."""

_TRAIN_EPILOG = """
\b
Examples:
  hat adapter train stories --text TinyStories-train.txt
  hat adapter train stories --text a.txt --text b.txt --held-out c.txt --minutes 60

Text files hold documents with a line <|endoftext|> between them. Interrupted, it leaves the bundle
as it was, and the same command goes on from its last checkpoint, at most a minute back.

The new adapter is measured on held-out text beside prompt lookup and the adapter that is there. If
it is the best of them, it goes into the device bundle, and `hat device` drafts with it; copy that
folder again where the device is another machine. Else the bundle stays as it was, and the exit code
is 3.
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
    help="Text to measure and choose the stop threshold on; left out: every twentieth document "
    "of --text.",
)
@click.option(
    "--kind",
    type=click.Choice(["layer", "attention"]),
    default="layer",
    help="A decoder layer, or its attention half as in the paper.  [default: layer]",
)
@click.option(
    "--minutes",
    type=FiniteRange(min=0, min_open=True),
    default=10.0,
    metavar="N",
    help="Time for the training steps; what comes before and after is not counted.  [default: 10]",
)
@click.option(
    "--work",
    metavar="DIR",
    help="Folder for states and checkpoints, up to 4 GiB; left out: BUNDLE/adapter-KIND.",
)
@click.option(
    "--force", is_flag=True, help="Put the adapter into the bundle even if it measures worse."
)
@_device_option
def train(bundle: str, force: bool, **parameters: Any) -> int:
    """Train an adapter on text files and put it into the device bundle if it is of use there.

    BUNDLE is the folder that `hat split` wrote, with both its parts.
    """
    folder, kind = _bundle_pair(bundle), parameters["kind"]
    work = Path(parameters["work"] or folder / f"adapter-{kind}")
    with failures_explained(), _training_explained(), stage_progress() as progress:
        from adapters.install import install_adapter
        from adapters.options import TrainOptions
        from adapters.training.train import train as train_adapter

        options = TrainOptions(
            device_bundle=folder,
            cloud_bundle=folder,
            text=_paths(parameters["text"]),
            held_out=_paths(parameters["held_out"]),
            work=work,
            lookup=_looked_up,
            kind=kind,
            minutes=parameters["minutes"],
            device=parameters["device"],
        )
        trained = train_adapter(options, progress)
    click.echo(training_report(trained))
    if trained.comparison.faster is not None and not force:
        click.echo(kept_line(trained))
        return NOT_BETTER
    with failures_explained():
        install_adapter(folder, trained.path)
    click.echo(installed_line(trained, folder / "device"))
    return 0


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
    with failures_explained(), stage_progress() as progress:
        from adapters.measuring.evaluate import evaluate as evaluate_adapter
        from adapters.measuring.report import render_report
        from adapters.options import EvaluateOptions, TrialOptions

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
def _training_explained() -> Iterator[None]:
    """Too few minutes, and what an interruption leaves."""
    from adapters.training.trial_steps import TooFewStepsError

    try:
        yield
    except TooFewStepsError as error:
        raise CommandError(f"--minutes is too short: {error}") from error
    except KeyboardInterrupt:
        click.echo(
            "hat: the bundle is as it was; the same command goes on from its last checkpoint",
            err=True,
        )
        raise


def _looked_up(text: Sequence[int], num_tokens: int) -> Sequence[int]:
    """What `hat device` drafts without an adapter."""
    from device_runtime.drafting.ngram import PromptLookup

    drafter = PromptLookup()
    drafter.extend(text)
    return drafter.propose(num_tokens)
