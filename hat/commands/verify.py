"""`hat verify`: proof that the split model says what the unsplit one says."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hat.bundle_cache import is_bundle_pair, prepared_bundle
from hat.early_interrupt import NothingBegun
from hat.errors import CommandError, extras_explained
from hat.progress import Bars
from hat.settings.options import setting_option
from hat.settings.programs import DEVICE
from hat.splitting import SplitRequest, model_path, small_model
from process.errors import ConfigError

if TYPE_CHECKING:
    from hat.verify.report import Check
    from hat.verify.settings import VerifyOptions

_EPILOG = """
\b
Examples:
  hat verify                                     the small model that comes with hat
  hat verify meta-llama/Llama-3.1-8B-Instruct llama-8b
  hat verify models/stories260k --prompts my-prompts.txt --max-tokens 100

Both sides run in this process and talk over a real socket, in float32 unless told otherwise; the
unsplit model is transformers' own. A first difference where the unsplit model's two best logits
are closer than 1e-4 is a tie: counted, and not held against the split. The exit code is 1 when
anything else differs. In bfloat16, be it of the rows alone, differences and margins are shown and
nothing fails.

--prompts takes one prompt per line, or a .jsonl file of objects with "prompt" or "turns".
"""


@click.command(epilog=_EPILOG)
@click.argument("model", required=False)
@click.argument("bundle", required=False)
@click.option(
    "--prompts", metavar="FILE", help="Prompts to use; left out: some that come with hat."
)
@click.option(
    "--num-prompts",
    type=click.IntRange(min=1),
    default=200,
    metavar="N",
    help="Most prompts to use.  [default: 200]",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1, max=1 << 24),
    default=40,
    metavar="N",
    help="Tokens to generate per prompt.  [default: 40]",
)
@click.option(
    "--num-draws",
    type=click.IntRange(min=0, max=100_000),
    default=1000,
    metavar="N",
    help="Texts to draw for the sampled check; 0 leaves it out.  [default: 1000]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    help="Number format of both models.  [default: float32]",
)
@click.option(
    "--wire-dtype",
    type=click.Choice(["float32", "bfloat16"]),
    help="Number format of rows between the split model's sides; left out: --dtype.",
)
@click.option(
    "--drafter",
    type=click.Choice(DEVICE.setting("drafter").choices),
    help="How the split model drafts; left out: as `hat device` does.",
)
@click.option(
    "--engine",
    type=click.Choice(["onnx", "torch"]),
    default="onnx",
    help="What runs the device's layers.  [default: onnx]",
)
@setting_option(DEVICE.setting("bundle_key"))
def verify(model: str | None, bundle: str | None, **parameters: Any) -> int:
    """Compare the split model with the unsplit one.

    MODEL is a checkpoint folder, a GGUF file or a hub id, BUNDLE the folder that `hat split` made
    of it; left out, MODEL is split as `hat up` does.
    """
    name = str(small_model()) if model is None else model
    options = _options(name, bundle, parameters)
    from hat.verify.report import passed, render

    with extras_explained(), NothingBegun():
        from hat.verify.run import verify as run_checks
    with extras_explained(), Bars() as progress:
        checks = run_checks(options, progress)
    click.echo(f"{name} split into {options.bundle}, {_numbers(options)}\n{render(checks)}")
    click.echo(_conclusion(checks, options))
    return 0 if passed(checks) else 1


def _options(name: str, bundle: str | None, parameters: dict[str, Any]) -> "VerifyOptions":
    from hat.verify.settings import VerifyOptions

    key = _bundle_key(parameters["bundle_key"])
    path = model_path(name)
    if bundle is None:
        request = SplitRequest(None, None, "keep", ("float32",))
        bundles = prepared_bundle(name, path, request, os.environ)
    elif is_bundle_pair(Path(bundle)):
        bundles = Path(bundle)
    else:
        raise CommandError(f"{bundle}: expected a folder that `hat split` wrote")
    prompts = parameters["prompts"]
    return VerifyOptions(
        model=path,
        bundle=bundles,
        prompts=None if prompts is None else Path(prompts).expanduser(),
        num_prompts=parameters["num_prompts"],
        max_tokens=parameters["max_tokens"],
        dtype=parameters["dtype"],
        wire_dtype=parameters["wire_dtype"] or parameters["dtype"],
        num_draws=parameters["num_draws"],
        drafter=parameters["drafter"] or "auto",
        engine=parameters["engine"],
        bundle_key=key,
    )


def _bundle_key(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        DEVICE.setting("bundle_key").validated(text)
    except ValueError as error:
        raise ConfigError(f"--bundle-key: {error}") from error
    return text


def _numbers(options: "VerifyOptions") -> str:
    if options.wire_dtype == options.dtype:
        return options.dtype
    return f"{options.dtype}, rows in {options.wire_dtype}"


def _conclusion(checks: "list[Check]", options: "VerifyOptions") -> str:
    from hat.verify.report import passed

    if not passed(checks):
        return "\nThe split model is NOT the unsplit model."
    if not options.is_exact:
        return "\nOnly float32 can prove that the split model is the unsplit one."
    return "\nThe split model says what the unsplit model says."
