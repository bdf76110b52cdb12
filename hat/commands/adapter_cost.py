"""What a draft step takes on this machine, with the engine that `hat device` uses by default."""

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, get_args

import click

from hat.settings.options import FiniteRange
from process.errors import UserError

if TYPE_CHECKING:
    from adapters.draft_cost import DraftCost
    from adapters.options import CostOf

round_option = click.option(
    "--round-ms",
    type=FiniteRange(min=0, min_open=True),
    default=100.0,
    metavar="N",
    help="How long a round without a draft takes over your link; the measured time of a draft step "
    "is held against it.  [default: 100]",
)


def measured_cost(device_bundle: Path, round_ms: float) -> "CostOf":
    """What drafting with the adapter in a folder costs, for the model of this device bundle.

    The bundle is left alone. Where no engine can be started, which a training should not fail for,
    costs are assumed, and a line says why.
    """

    def cost_of(adapter: Path) -> "DraftCost":
        from adapters.draft_cost import DraftCost

        try:
            return DraftCost.measured(_step_s(device_bundle, adapter), round_ms / 1e3)
        except (UserError, OSError, ValueError) as error:
            click.echo(f"hat: the time of a draft step is assumed, not measured: {error}", err=True)
            return DraftCost()

    return cost_of


def _step_s(device_bundle: Path, adapter: Path) -> float:
    """Seconds of a draft step; weights are those of the device's defaults, if the bundle has them.

    Raises:
        UserError: no adapter there, or no engine for it.
    """
    from adapters.install import install_beside
    from submodels.bundle.bundle import load_bundle

    own = load_bundle(device_bundle, "device").path
    if adapter.resolve() == own.resolve():
        return _bundle_step_s(own)
    with TemporaryDirectory(prefix="hat-step-") as name:
        return _bundle_step_s(install_beside(own, adapter, Path(name) / "device"))


def _bundle_step_s(bundle: Path) -> float:
    import torch

    from device_runtime.config import DeviceConfig, Weights
    from device_runtime.engines.loading import load_engine
    from device_runtime.engines.timing import measured_draft_step_s
    from submodels.bundle.bundle import load_bundle

    config = DeviceConfig(bundle=bundle, drafter="adapter")
    formats = load_bundle(bundle, "device").manifest.onnx_weights
    if not formats:
        config = replace(config, engine="torch")
    elif config.weights not in formats:
        config = replace(config, weights=next(w for w in get_args(Weights) if w in formats))
    num_threads = torch.get_num_threads()
    try:
        return measured_draft_step_s(load_engine(config), time.perf_counter)
    finally:
        # The torch engine sets them for the whole process.
        torch.set_num_threads(num_threads)
