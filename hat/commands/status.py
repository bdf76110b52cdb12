"""`hat status`: how the device and the cloud are."""

import os

import click

from hat.errors import CommandError
from hat.settings.options import FiniteRange
from hat.settings.secret_files import endpoint_key
from process.errors import ConfigError

_DEVICE = "http://127.0.0.1:8000"
_CLOUD = "http://127.0.0.1:7700"
_EVERY_S = 2.0

_EPILOG = """
\b
Examples:
  hat status
  hat status --watch
  hat status --device http://jetson:8000 --cloud wss://gpu-server:7700

A side of which no option says anything, and which is not there, is left out. Exit code 1: a side
is not ready or does not answer. The device's key, if it asks for one, comes from --api-key-file or
HAT_API_KEY. A cloud's figures have a port of their own, which only its own machine reaches unless
it has --metrics-host.
"""


@click.command(epilog=_EPILOG)
@click.option("--device", metavar="URL", help=f"The device's endpoint.  [default: {_DEVICE}]")
@click.option("--cloud", metavar="URL", help=f"The cloud.  [default: {_CLOUD}]")
@click.option(
    "--watch",
    type=FiniteRange(min=0.2),
    is_flag=False,
    flag_value=_EVERY_S,
    metavar="[SECONDS]",
    help=f"Ask again every so many seconds, until Ctrl-C.  [{_EVERY_S:.0f} if none are given]",
)
@click.option("--api-key-file", metavar="FILE", help="File with the device's key.")
@click.option(
    "--cloud-metrics",
    metavar="URL",
    help="Where the cloud's figures are.  [default: its host, the port above its own]",
)
@click.option("--cloud-ca", metavar="FILE", help="Authority that signed the cloud's certificate.")
@click.option("--cloud-pin", metavar="sha256/...", help="Of the cloud's key, as it prints it.")
def status(
    device: str | None,
    cloud: str | None,
    watch: float | None,
    api_key_file: str | None,
    cloud_metrics: str | None,
    cloud_ca: str | None,
    cloud_pin: str | None,
) -> None:
    """Show how the device and the cloud are: link, requests, tokens, drafts, steps, room.

    From their own metrics; with --watch also what they do now.
    """
    from hat.status.asking import Side, root_url, roots_beside
    from hat.status.run import run_status

    key = endpoint_key(api_key_file, os.environ)
    of_the_cloud = (cloud, cloud_metrics, cloud_ca, cloud_pin)
    cloud_url = root_url(cloud or _CLOUD, "--cloud")
    figures = roots_beside(cloud_url)
    if cloud_metrics:
        figures = (root_url(cloud_metrics, "--cloud-metrics"),)
    sides = (
        Side("device", root_url(device or _DEVICE, "--device"), device is not None, api_key=key),
        Side(
            *("cloud", cloud_url, any(each is not None for each in of_the_cloud)),
            ca_file=cloud_ca,
            pins=_pins(cloud_pin),
            metrics_urls=figures,
        ),
    )
    if not run_status(sides, watch):
        raise CommandError("not everything is ready")


def _pins(text: str | None) -> tuple[str, ...]:
    from process.tls.certificates import parse_pin

    try:
        return () if text is None else (parse_pin(text),)
    except ValueError as error:
        raise ConfigError(f"--cloud-pin: {error}, got {text!r}") from error
