"""All of a visit to the doctor: the device, then link and cloud, then what follows from both."""

import logging
from dataclasses import dataclass

from device_runtime.config import DeviceConfig
from device_runtime.drafting.choice import drafter_names
from device_runtime.engines.bundle_adapter import recorded_figures
from device_runtime.exposure import link_exposure_of
from device_runtime.fetching.keeping import hold_named
from device_runtime.generation.request import CloudUnavailableError
from hat.doctor.advice import Drafter, Foretold, foretell
from hat.doctor.cloud import Reached, examine_cloud
from hat.doctor.device import DeviceFindings, examine_device
from hat.doctor.foretell import Choice, Surroundings
from process.errors import UserError
from process.program.exposure import tell
from process.program.run import run_on_loop
from process.world import World
from submodels.bundle.bundle import load_bundle

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found; what could not be found out is None, and `problems` say why."""

    device: DeviceFindings
    reached: Reached | None
    foretold: Foretold | None
    drafter: str
    problems: tuple[str, ...]


def visit(config: DeviceConfig, is_cloud_wanted: bool, world: World) -> Report:
    """Examine a device with its settings and, if it is wanted, the cloud of these settings.

    Raises:
        UserError: the device itself cannot work with these settings.
    """
    hold_named(config.bundle_path, world.unix_clock())
    bundle = load_bundle(config.bundle_path, "device", config.verify_weights, key=config.bundle_key)
    device, rows = examine_device(config, bundle, world.clock)
    name = (*drafter_names(config, device.draft_limits), "none")[0]
    if not is_cloud_wanted:
        return Report(device, None, None, name, ())
    try:
        tell(link_exposure_of(config), _log)
        reached = run_on_loop(examine_cloud(config, rows, world))
    except CloudUnavailableError as error:
        return Report(device, None, None, name, (error.reason,))
    except UserError as error:
        return Report(device, None, None, name, (str(error),))
    drafter = Drafter(name, recorded_figures(bundle))
    return Report(device, reached, _foretold(config, device, reached, drafter), name, ())


def _foretold(
    config: DeviceConfig, device: DeviceFindings, reached: Reached, drafter: Drafter
) -> Foretold:
    most_tokens = min(device.max_context_tokens, reached.cloud.max_context_tokens)
    here = Surroundings(reached.link, reached.cloud, most_tokens)
    plain = Choice(
        device.now.layers, device.now.head, returns_all_rows=device.num_output_layers > 0
    )
    here = here.with_check(plain, reached.check)
    return foretell(config, device, here, drafter)
