"""`hat adapter`: train the network that drafts, and measure what it brings."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hat.bundle_cache import bundles_of, is_bundle_pair
from hat.commands.adapter_cost import measured_cost, round_option
from hat.commands.adapter_import import import_command
from hat.errors import CommandError, failures_explained
from hat.progress import stage_progress
from hat.settings.options import FiniteRange
from hat.splitting import SplitRequest
from hat.training_report import installed_line, kept_line, training_report, written_report

if TYPE_CHECKING:
    from adapters.options import Progress

# As `hat up` splits, whose kept bundles are taken.
_SPLIT = SplitRequest(None, None, "keep", ("float32",))
NOT_BETTER = 3
"""Exit code of a training whose adapter is not worth its place."""

_TRAIN_EPILOG = """
\b
Examples:
  hat adapter train SmolLM2-135M-Instruct.Q4_1.gguf --minutes 60
  hat adapter train llama-8b --prompts questions.txt --answer-tokens 400
  hat adapter train stories --text a.txt --text b.txt --held-out c.txt

Without --text the model writes conversations itself: questions from its own chat template's
opening, or those of --prompts, and its answers to them. They lie in WORK/conversations.jsonl, and a
file that is there is taken and gone on with. An adapter has to guess the model's own words, and
learns them best from those; use --text for what no chat template asks. Text files hold documents
with a line <|endoftext|> between them. --prompts takes one prompt per line, or a .jsonl file of
objects with "prompt" or "turns", the first of which is asked.

Interrupted, it leaves the bundle as it was, and the same command goes on: from its last checkpoint,
at most a minute back, or the last conversations that were written.

The new adapter is measured on held-out text beside no drafting, prompt lookup and the adapter that
is there. If it beats no drafting and is not slower than the one that is there, it goes into the
device bundle, and `hat device` drafts with it; copy that folder again where the device is another
machine. Else the bundle stays as it was, and the exit code is 3.
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
    """Train, import and evaluate the drafting adapter.

    An adapter is a small network on the device that guesses what the cloud's layers would say, so
    that one answer of the cloud decides several tokens. It never changes what is generated.
    """


adapter.add_command(import_command)

_device_option = click.option(
    "--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:1.  [default: cpu]"
)


@adapter.command(epilog=_TRAIN_EPILOG)
@click.argument("model")
@click.option(
    "--prompts", metavar="FILE", help="Prompts to answer; left out: questions of the model's own."
)
@click.option(
    "--conversations",
    type=click.IntRange(min=1),
    default=2500,
    metavar="N",
    help="How many are written.  [default: 2500]",
)
@click.option(
    "--answer-tokens",
    type=click.IntRange(min=2),
    default=256,
    metavar="N",
    help="Where an answer is cut.  [default: 256]",
)
@click.option(
    "--text",
    multiple=True,
    metavar="FILE",
    help="Text to learn from instead of conversations; may be repeated.",
)
@click.option(
    "--held-out",
    multiple=True,
    metavar="FILE",
    help="Text to measure and choose the stop threshold on; left out: every twentieth document "
    "of --text.",
)
@click.option(
    "--kind",
    type=click.Choice(["fed", "block", "layer", "attention"]),
    default="fed",
    help="A decoder layer that is fed with what came back from the cloud; two of these that draft "
    "a block of tokens in one pass; one that is not fed; or the attention half of one, as in the "
    "paper.  [default: fed]",
)
@click.option(
    "--minutes",
    type=FiniteRange(min=0, min_open=True),
    default=30.0,
    metavar="N",
    help="Time for the training steps, which end earlier where they bring nothing more; what comes "
    "before and after is not counted.  [default: 30]",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Take so many training steps instead; the same command gives the same adapter then.",
)
@click.option(
    "--number-format",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    help="What the model and the training compute in; auto: whichever is faster here.  "
    "[default: auto]",
)
@click.option(
    "--work",
    metavar="DIR",
    help="Folder for conversations, states and checkpoints, up to 5 GiB; left out: adapter-KIND in "
    "the bundles' folder.",
)
@click.option(
    "--force", is_flag=True, help="Put the adapter into the bundle even if it measures worse."
)
@round_option
@_device_option
def train(model: str, force: bool, **parameters: Any) -> int:
    """Train an adapter and put it into the device bundle if it is of use there.

    MODEL is a folder that `hat split` wrote, with both its parts, or a model as `hat up` takes it,
    into whose kept bundles the adapter goes.
    """
    _check_sources(parameters)
    with failures_explained():
        folder = bundles_of(model, _SPLIT, os.environ)
    kind, steps = parameters["kind"], parameters["steps"]
    work = Path(parameters["work"] or folder / f"adapter-{kind}")
    text = _paths(parameters["text"])
    with failures_explained(), _training_explained(), stage_progress() as progress:
        from adapters.install import install_adapter
        from adapters.options import Recipe, TrainOptions
        from adapters.training.train import train as train_adapter

        conversations = None if text else _written(folder, work, parameters, progress)
        options = TrainOptions(
            device_bundle=folder,
            cloud_bundle=folder,
            text=text,
            conversations=conversations,
            held_out=_paths(parameters["held_out"]),
            work=work,
            lookup=_looked_up,
            kind=kind,
            minutes=None if steps else parameters["minutes"],
            recipe=Recipe(steps=steps or 1),
            number_format=parameters["number_format"],
            cost_of=measured_cost(folder, parameters["round_ms"]),
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
@click.argument("bundle")
@click.option(
    "--text", multiple=True, required=True, metavar="FILE", help="Text file; may be repeated."
)
@click.option(
    "--num-prompts",
    type=click.IntRange(min=1),
    default=160,
    metavar="N",
    help="Documents to draft on.  [default: 160]",
)
@round_option
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
            cost_of=measured_cost(folder, parameters["round_ms"]),
            device=parameters["device"],
        )
        report = evaluate_adapter(options, progress)
    click.echo(render_report(report))


def _check_sources(parameters: Mapping[str, Any]) -> None:
    if parameters["text"] and parameters["prompts"]:
        raise CommandError("give --text or --prompts, not both")
    if parameters["held_out"] and not parameters["text"]:
        raise CommandError(
            "--held-out goes with --text; of conversations every twentieth is kept out"
        )


def _written(folder: Path, work: Path, parameters: Mapping[str, Any], progress: "Progress") -> Path:
    """The file of conversations, with what was missing of them."""
    from adapters.data.conversations import CONVERSATIONS_FILE, conversation_figures
    from adapters.writing.form import WritingOptions
    from adapters.writing.run import Sources, write_conversations
    from hat.chat_form import chat_form, prompt_tokens
    from hat.verify.prompts import read_prompts

    options = WritingOptions(
        num_conversations=parameters["conversations"],
        max_answer_tokens=parameters["answer_tokens"],
    )
    named = parameters["prompts"]
    prompts = None if named is None else prompt_tokens(folder, read_prompts(Path(named)))
    sources = Sources(
        device_bundle=folder,
        cloud_bundle=folder,
        form=chat_form(folder),
        prompts=prompts,
        device=parameters["device"],
        number_format=parameters["number_format"],
    )
    written = write_conversations(sources, options, work, progress, time.process_time)
    click.echo(written_report(conversation_figures(written.conversations), written))
    return work / CONVERSATIONS_FILE


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
