"""`hat up`: both sides on this machine, from a model or from bundles."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hat.bundle_cache import bundles_of, is_bundle_pair
from hat.settings.options import config_option, print_config_option, setting_option, sources_of
from hat.settings.print_config import as_toml
from hat.settings.programs import CLOUD, DEVICE
from hat.splitting import SplitRequest
from hat.up.first_steps import first_steps, has_chat_template
from process.errors import ConfigError

if TYPE_CHECKING:
    from hat.up.plan import UpSettings

_EPILOG = """
\b
Examples:
  hat up                           the small model that comes with hat
  hat up Qwen/Qwen3-0.6B           a hub id, or the folder of a checkpoint
  hat up model-Q4_K_M.gguf         a GGUF file, also owner/repository:Q4_K_M of a hub
  hat up llama-8b                  a folder that `hat split` wrote
  hat up --port 8080 --config hat.toml

A model is split once, and its bundles are kept in ~/.cache/hat (or HAT_CACHE). Every other
setting of the two sides can come from the environment or from --config, as with `hat cloud` and
`hat device`; only their bundles, the secret between them and --cloud are set by this command.
"""

_DEVICE_FLAGS = (
    "host",
    "port",
    "api_key",
    "served_model_name",
    "max_model_len",
    "max_num_seqs",
    "drafter",
    "log_level",
)


def _device_flags(command: Any) -> Any:
    for name in reversed(_DEVICE_FLAGS):
        command = setting_option(DEVICE.setting(name))(command)
    return command


@click.command(epilog=_EPILOG)
@click.argument("model", required=False, metavar="[MODEL_OR_BUNDLE]")
@_device_flags
@click.option("--cloud-port", metavar="N", help="Port between the two sides.  [default: 7700]")
@click.option("--input-layers", type=click.IntRange(min=0), metavar="M", help="As in `hat split`.")
@click.option("--output-layers", type=click.IntRange(min=0), metavar="K", help="As in `hat split`.")
@config_option
@print_config_option
def up(model: str | None, **parameters: Any) -> None:
    """Run both sides on this machine.

    Splits the model, if that was not done before, starts the cloud and the device, and prints
    how to talk to them.
    """
    from hat.up.plan import require_free_ports

    settings = _settings(parameters)
    if parameters["print_config"]:
        click.echo(f"{as_toml(settings.cloud)}\n\n{as_toml(settings.device)}")
        return
    require_free_ports(settings)
    _serve(settings, _bundle(model, _split_request(settings, parameters)))


def _settings(parameters: Mapping[str, Any]) -> "UpSettings":
    from hat.up.plan import up_settings

    names = {"port": "cloud_port", "log_level": "log_level", "config": "config"}
    cloud = {name: parameters[own] for name, own in names.items()}
    return up_settings(
        sources_of(CLOUD, cloud, port="--cloud-port"), sources_of(DEVICE, parameters)
    )


def _split_request(settings: "UpSettings", parameters: Mapping[str, Any]) -> SplitRequest:
    """Only the ONNX parts that this device will run."""
    uses_onnx = settings.device.value("engine") == "onnx"
    return SplitRequest(
        parameters["input_layers"],
        parameters["output_layers"],
        "keep",
        (settings.device.value("weights"),) if uses_onnx else (),
    )


def _bundle(model: str | None, request: SplitRequest) -> Path:
    """The folder with both bundles: the one named, a kept one, or a new one."""
    names_layers = (request.num_input_layers, request.num_output_layers) != (None, None)
    if names_layers and model is not None and is_bundle_pair(Path(model)):
        raise ConfigError(f"{model} is split already: leave out --input-layers, --output-layers")
    return bundles_of(model, request, os.environ)


def _serve(settings: "UpSettings", bundle: Path) -> None:
    from hat.up.pair import Pair
    from hat.up.plan import sides

    api_key = settings.device.given["api_key"]
    steps = first_steps(settings.device_address, api_key, has_chat_template(bundle / "device"))
    cloud, device = sides(settings, bundle, os.environ)
    pair = Pair(cloud, device, lambda: click.echo(f"\n{steps}\n"))
    asyncio.run(pair.run())
