"""A training's state on disk: enough to go on exactly as if it had not been interrupted."""

from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.options import Recipe
from adapters.storage import Kind
from adapters.training.learning.distillation import Distillation
from submodels.bundle.whole_file import replace_whole

CHECKPOINT_FILE = "checkpoint.safetensors"
PROGRESS_FILE = "checkpoint.json"

_LEAST_GAIN = 0.002
"""Tokens per round: a look at held-out texts that brings less has brought nothing."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a training is. `states_key` names model, split and text (see `training_key`).

    `minutes` bound its steps, if given; `training_s` of them are used.
    """

    kind: Kind
    closing_norm: bool
    states_key: str
    recipe: Recipe
    step: int
    training_s: float
    recent_loss: float
    minutes: float | None = None
    history: list[tuple[int, float, float]] = []
    """Step, recent loss and held-out tokens per round of each look at held-out texts."""

    @property
    def is_flat(self) -> bool:
        """Whether the last looks have brought nothing."""
        tokens = [one[2] for one in self.history]
        before, after = tokens[: -self.recipe.patience], tokens[-self.recipe.patience :]
        return bool(before) and max(after) < max(before) + _LEAST_GAIN


def save_checkpoint(folder: Path, distillation: Distillation, progress: TrainingProgress) -> None:
    """Put weights, optimiser and progress into `folder`; an older checkpoint gives way at once.

    The tensor file's name holds the step, and the progress file, replaced last, names that step:
    a crash in between leaves the older checkpoint whole.
    """
    tensors = dict(distillation.network.state_dict())
    for name, parameter in distillation.network.named_parameters():
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = distillation.optimizer.state[parameter][moment]
    path = _tensors_path(folder, progress.step)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    replace_whole(folder / PROGRESS_FILE, msgspec.json.encode(progress))
    for other in folder.glob(f"*.{CHECKPOINT_FILE}"):
        if other != path:
            other.unlink()


def read_progress(folder: Path) -> TrainingProgress | None:
    """How far the training in `folder` is; None when there is none that can be resumed."""
    try:
        progress = msgspec.json.decode((folder / PROGRESS_FILE).read_bytes(), type=TrainingProgress)
    except (OSError, msgspec.DecodeError):
        return None
    return progress if _tensors_path(folder, progress.step).is_file() else None


def restore(folder: Path, distillation: Distillation, progress: TrainingProgress) -> bool:
    """Put a checkpoint into a new training; False, and nothing done, if its file is corrupt."""
    try:
        tensors = load_file(_tensors_path(folder, progress.step))
        moments = {name: _moments(tensors, name) for name in _parameter_names(distillation)}
    except (SafetensorError, KeyError):
        return False
    names = distillation.network.state_dict().keys()
    distillation.network.load_state_dict({name: tensors[name] for name in names})
    for name, parameter in distillation.network.named_parameters():
        distillation.optimizer.state[parameter] = {
            "step": torch.tensor(float(progress.step)),
            **{moment: tensor.to(parameter.device) for moment, tensor in moments[name].items()},
        }
    distillation.step = progress.step
    return True


def _moments(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS}


def _parameter_names(distillation: Distillation) -> list[str]:
    return [name for name, _ in distillation.network.named_parameters()]


def _tensors_path(folder: Path, step: int) -> Path:
    return folder / f"{step}.{CHECKPOINT_FILE}"
