"""A cloud bundle of random weights, for timing its layers."""

from pathlib import Path

from submodels.bundle.bundle import Bundle, load_bundle
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint


def checkpoint_folder(folder: Path) -> Path:
    """Where `random_bundle` has the checkpoint."""
    return folder / "model"


def random_bundle(model: RandomModel, folder: Path) -> Bundle:
    """All of its layers in the cloud; the checkpoint lies beside."""
    make_random_model(model, checkpoint_folder(folder))
    whole = str(checkpoint_folder(folder))
    options = SplitOptions(whole, folder / "split", 0, onnx_weights=())
    return load_bundle(split_checkpoint(options).out, "cloud")
