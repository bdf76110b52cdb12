"""Which Medusa heads belong to a model, for the arm that drafts with them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adapters.medusa_heads import MedusaError, load_heads
from bench.arms import Arm
from submodels.bundle import load_bundle

_MODELS = Path(__file__).resolve().parent.parent / "models"


def heads_for(bundles: Path, models: Path = _MODELS) -> Path | None:
    """The folder of the heads for the model that `hat split` wrote into `bundles`; None without.

    Raises:
        BundleError: it holds no sound bundle.
    """
    manifest = load_bundle(bundles / "device", "device").manifest
    for folder in sorted(models.glob("*-medusa")):
        try:
            load_heads(folder, manifest)
        except MedusaError:
            # Of another model, as all of them but one are.
            continue
        return folder
    return None


def fitting_arms(arms: Sequence[Arm], bundles: Path) -> tuple[Arm, ...]:
    """The arms that this model can run, each with the heads it needs."""
    heads = heads_for(bundles)
    fitting: list[Arm] = []
    for arm in arms:
        if arm.device.get("drafter") != "medusa":
            fitting.append(arm)
        elif heads is not None:
            fitting.append(replace(arm, device={**arm.device, "medusa_heads": heads}))
    return tuple(fitting)
