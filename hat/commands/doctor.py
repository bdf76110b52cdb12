"""`hat doctor`: what this device can do, what to expect with a cloud, and what to change."""

import json
import random
import time
from typing import TYPE_CHECKING, Any

import click

from hat.errors import extras_explained, need_unix
from hat.settings.options import config_option, setting_option, sources_of
from hat.settings.programs import DEVICE
from hat.settings.sources import load

if TYPE_CHECKING:
    from hat.doctor.run import Report

_EPILOG = """
\b
Examples:
  hat doctor llama-8b/device
  hat doctor llama-8b/device --cloud wss://gpu-server:7700 --secret-file secret
  hat doctor llama-8b/device --cloud wss://gpu-server:7700 --json

Settings are read as `hat device` reads them, from flags, the environment and --config. It
measures for some seconds: run it where `hat device` is to run, while nothing else does. The cloud
computes some hundred rows for it, in two short sessions. The exit code is 1 where something is
wrong, such as a cloud that cannot be reached or a secret that it refuses.
"""

_FLAGS = (
    *("engine", "weights", "onnx_provider", "onnx_provider_options", "threads"),
    *("drafter", "draft_weights", "chunking", "chunk_tokens"),
)
_LINK_FLAGS = (
    *("secret", "cloud_ca", "cloud_pin", "insecure", "cloud_client_cert", "cloud_client_key"),
    *("congestion_control", "bundle_key"),
)

_FOUND_WRONG = 1


def _device_flags(command: Any) -> Any:
    for name in reversed((*_FLAGS, *_LINK_FLAGS)):
        command = setting_option(DEVICE.setting(name))(command)
    return command


@click.command(epilog=_EPILOG)
@click.argument("bundle", required=False)
@click.option(
    "--cloud",
    metavar="URL",
    help="Where `hat cloud` listens; left out everywhere: only this device is examined.",
)
@_device_flags
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a document for programs instead.")
def doctor(as_json: bool, **parameters: Any) -> int:
    """Measure a device, its link and its cloud, and say what to expect of them.

    BUNDLE is the device/ folder that `hat split` wrote. Tells the time to the first token for
    prompts of 100, 1,000 and 4,000 tokens, the tokens per second behind it, and what to change.
    """
    need_unix()
    resolved = load(DEVICE, sources_of(DEVICE, parameters))
    for note in resolved.notes:
        click.echo(f"hat: {note}", err=True)
    config = resolved.config()
    with extras_explained():
        from hat.doctor.run import visit
        from process.program.logs import configure_logs
        from process.world import World

        # What goes wrong is among the findings, and said once.
        configure_logs("error", config.log_format, quotes_no_requests=True)
        world = World(time.monotonic, time.time, random.SystemRandom())
        report = visit(config, resolved.given["cloud"].source != "default", world)
    _show(report, as_json)
    return _FOUND_WRONG if report.problems else 0


def _show(report: "Report", as_json: bool) -> None:
    from hat.doctor.report import document, lines

    if as_json:
        click.echo(json.dumps(document(report), indent=2))
        return
    for line in lines(report):
        click.echo(line)
