"""Fine-tunes of a small checkpoint: copies in which some tensors are others."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Change = Callable[[dict[str, torch.Tensor]], None]


def fine_tune(
    base: Path, folder: Path, change: Change, settings: Mapping[str, Any] | None = None
) -> Path:
    """A checkpoint of one file like `base`, with tensors and settings of its own."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | dict(settings or {})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def nudged(*names: str, by: float = 0.05, seed: int = 3) -> Change:
    """Adds noise of that share of their own spread to all tensors whose name has one of these."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name in sorted(tensors):
            if any(part in name for part in names):
                noise = torch.randn(tensors[name].shape, generator=generator)
                spread = tensors[name].float().std() * by
                tensors[name] = (tensors[name] + noise * spread).to(tensors[name].dtype)

    return change


def with_more_tokens(num_tokens: int, seed: int = 4) -> Change:
    """Adds rows to embedding and head, as training with tokens of one's own does."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name in tensors:
                old = tensors[name]
                new = torch.randn((num_tokens, old.shape[1]), generator=generator) * old.std()
                tensors[name] = torch.cat((old, new.to(old.dtype)))

    return change
