"""`hat cloud` and `hat device`: read the settings, then run the program."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cloud_server.config import CloudConfig
from device_runtime.config import DeviceConfig
from hat.early_interrupt import NothingBegun
from hat.errors import CommandError, extras_explained, need_unix
from hat.progress import FetchProgress
from hat.settings.options import settings_options, sources_of
from hat.settings.print_config import as_toml
from hat.settings.programs import CLOUD, DEVICE, C, Program
from hat.settings.sources import Given, Resolved, load
from process.errors import ConfigError

_EPILOG = """
\b
Examples:
  {examples}

Each setting can also come from the environment (HAT_{NAME}_PORT for --port) or from a TOML file
(port, in the table [{name}]). Flags win over the environment, and the environment over the file.

A secret is never a flag's value, since every user of a machine can see its command lines: put
it in a file, or in {variables}. Token counts may be written 32k (32,000) or 32K (32,768).
"""

_CLOUD_EXAMPLES = """hat cloud llama-8b/cloud
  hat cloud llama-8b/cloud --host 0.0.0.0 --tls-self-signed --secret-file secret
  hat cloud --self-test                # does this installation compute what it should?"""

_DEVICE_EXAMPLES = """hat device llama-8b/device
  hat device llama-8b/device --cloud wss://gpu-server:7700 --cloud-pin sha256/... \\
      --secret-file secret
  hat device --cloud wss://gpu-server:7700 --secret-file secret    # fetches what that serves"""


def _epilog(name: str, examples: str, variables: str) -> str:
    return _EPILOG.format(name=name, NAME=name.upper(), examples=examples, variables=variables)


@click.command(epilog=_epilog("cloud", _CLOUD_EXAMPLES, "HAT_SECRET"))
@settings_options(CLOUD)
@click.option(
    "--self-test",
    is_flag=True,
    help="Check and time this installation with these settings, and exit; BUNDLE may be left out.",
)
def cloud(**parameters: Any) -> int:
    """Serve the middle layers to devices.

    BUNDLE is the cloud/ folder that `hat split` wrote.
    """
    need_unix()
    resolved = _resolved(CLOUD, parameters)
    if resolved is None:
        return 0
    if parameters["self_test"]:
        return _self_test(resolved)
    config = resolved.config()
    if config.tls_self_signed and (config.tls_certificate or config.tls_key):
        raise click.UsageError("--tls-self-signed makes what --tls-certificate and --tls-key name")
    if (config.tls_certificate is None) != (config.tls_key is None):
        raise click.UsageError("--tls-certificate and --tls-key go together")
    with _installed(), NothingBegun():
        from cloud_server.main import run
    with _installed():
        return run(config)


@click.command(epilog=_epilog("device", _DEVICE_EXAMPLES, "HAT_SECRET and HAT_API_KEY"))
@settings_options(DEVICE)
def device(**parameters: Any) -> int:
    """Serve the OpenAI-compatible endpoint beside the user.

    BUNDLE is the device/ folder that `hat split` wrote; left out, it is fetched from the cloud, if
    that serves it. Needs neither torch nor a GPU.
    """
    resolved = _resolved(DEVICE, parameters)
    if resolved is None:
        return 0
    config = resolved.config()
    if config.bundle is None and resolved.given["cloud"].source == "default":
        raise ConfigError(
            "missing BUNDLE (or HAT_DEVICE_BUNDLE, or bundle in --config), or --cloud with the "
            "address of a cloud that serves it"
        )
    with _installed(), NothingBegun():
        _say_loading(config)
        from device_runtime.main import run
    with _installed(), FetchProgress(sys.stderr, time.monotonic) as show:
        return run(config, show)


@contextmanager
def _installed() -> Iterator[None]:
    """Imports in the body may need packages of an extra.

    Raises:
        ConfigError: one is missing; a service that is started again would miss it again.
    """
    try:
        with extras_explained():
            yield
    except CommandError as error:
        raise ConfigError(str(error)) from error


def _say_loading(config: DeviceConfig) -> None:
    """Before what takes long is imported."""
    from process.program.logs import configure_logs

    configure_logs(config.log_level, config.log_format, quotes_no_requests=True)
    source = f"the bundle of {config.cloud}" if config.bundle is None else str(config.bundle)
    logging.getLogger(__name__).info("loading %s", source)


def _self_test(resolved: Resolved[CloudConfig]) -> int:
    """Without BUNDLE random models are made, so that it is not missing here."""
    given = {"bundle": Given(Path(), "--self-test"), **resolved.given}
    config = replace(resolved, given=given).config()
    with extras_explained():
        from hat.self_test.run import self_test

        return self_test(config, "bundle" in resolved.given, click.echo)


def _resolved(program: Program[C], parameters: dict[str, Any]) -> Resolved[C] | None:
    """The settings that were given, or None once they have been printed."""
    resolved = load(program, sources_of(program, parameters))
    for note in resolved.notes:
        click.echo(f"hat: {note}", err=True)
    if parameters["print_config"]:
        click.echo(as_toml(resolved))
        return None
    return resolved
