"""What one pass of the whole model says of each token, kept in files of bounded size.

Of every token its shallow and its deep row (and, with output layers, its top row); where a draft is
made, the target's likeliest next tokens with their log-probabilities as well.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.data.sample import Places, Sample, samples_key
from adapters.data.whole_model import WholeModel
from submodels.bundle.whole_file import replace_whole
from submodels.manifest import Manifest

FEATURES_FILE = "features.bin"
FEATURES_KEY_FILE = "features.json"
NUM_LIKELIEST = 32
"""Of a target's distribution so many tokens are kept; the rest is one number, what is missing."""

# Attention over a whole text at once would compute the half that is masked, and hold it all.
_CHUNK_TOKENS = 256
_MOST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Texts side by side, shapes `[B, T]` and more; places beyond a text's end are in no mask."""

    token_ids: Tensor
    shallow: Tensor
    deep: Tensor
    top: Tensor
    """Rows `[B, T, H]` that enter the final norm; the deep ones without output layers."""
    within: Tensor
    scored: Tensor
    fed: Tensor
    likeliest: Tensor
    """Token ids `[B, T, N]`, falling; only where scored."""
    log_probs: Tensor
    """Theirs, `[B, T, N]`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How features lie in a file, token by token."""

    hidden_size: int
    num_rows: int
    """2, or 3 with output layers."""
    num_likeliest: int
    is_wide: bool
    """Rows in float32, else in float16."""
    computed_in: Literal["float32", "bfloat16"] = "float32"
    """The number format of the whole model's pass."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """One token."""
        row = np.float32 if self.is_wide else np.float16
        return np.dtype(
            [
                ("rows", row, (self.num_rows, self.hidden_size)),
                ("likeliest", np.int32, (self.num_likeliest,)),
                ("log_probs", np.float16, (self.num_likeliest,)),
            ]
        )


def layout_of(
    manifest: Manifest, is_wide: bool, computed_in: Literal["float32", "bfloat16"]
) -> Layout:
    """The layout for a model."""
    num_rows = 3 if manifest.num_output_layers else 2
    num_likeliest = min(NUM_LIKELIEST, manifest.shape.vocab_size)
    return Layout(manifest.shape.hidden_size, num_rows, num_likeliest, is_wide, computed_in)


def number_format_in(folder: Path) -> Literal["float32", "bfloat16"] | None:
    """What the features in a folder were, or were to be, computed in; None where there are none."""
    try:
        named = json.loads((folder / FEATURES_KEY_FILE).read_text())["computed_in"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return named if named in ("float32", "bfloat16") else None


class FeatureFile:
    """The features of some texts, memory-mapped."""

    def __init__(self, path: Path, samples: Sequence[Sample], layout: Layout) -> None:
        lengths = [len(sample.token_ids) for sample in samples]
        self._starts = np.concatenate(([0], np.cumsum(lengths)))
        self._samples = samples
        self._layout = layout
        self._tokens: NDArray[Any] = np.memmap(
            path, layout.dtype, "r", shape=(int(self._starts[-1]),)
        )

    def batch(
        self,
        indices: Sequence[int],
        device: torch.device | str = "cpu",
        is_last_only: Sequence[bool] | None = None,
        is_all_fed: Sequence[bool] | None = None,
    ) -> FeatureBatch:
        """The texts with these indices; of some the last answer only, of some all deep rows fed."""
        longest = max(len(self._samples[index].token_ids) for index in indices)
        tokens = np.zeros((len(indices), longest), self._layout.dtype)
        token_ids = np.zeros((len(indices), longest), np.int64)
        masks = np.zeros((3, len(indices), longest), np.bool_)
        for slot, index in enumerate(indices):
            sample, start = self._samples[index], self._starts[index]
            length = len(sample.token_ids)
            tokens[slot, :length] = self._tokens[start : start + length]
            token_ids[slot, :length] = sample.token_ids
            if is_last_only is not None and is_last_only[slot]:
                sample = sample.last_only
            masks[0, slot, :length] = True
            masks[1, slot, :length] = sample.scored()
            all_fed = is_all_fed is not None and is_all_fed[slot]
            masks[2, slot, :length] = _after_first(length) if all_fed else sample.fed()
        rows = torch.from_numpy(np.ascontiguousarray(tokens["rows"])).to(device).float()
        within, scored, fed = torch.from_numpy(masks).to(device)
        return FeatureBatch(
            token_ids=_tensor(token_ids, device),
            shallow=rows[:, :, 0],
            deep=rows[:, :, 1],
            top=rows[:, :, -1],
            within=within,
            scored=scored,
            fed=fed,
            likeliest=_tensor(tokens["likeliest"], device).long(),
            log_probs=_tensor(tokens["log_probs"], device).float(),
        )


def shards_of(samples: Sequence[Sample], max_bytes: int, layout: Layout) -> list[list[int]]:
    """Texts in order, in parts whose features fit into a file of this size; one text at least."""
    most = max_bytes // layout.dtype.itemsize
    shards: list[list[int]] = []
    num_tokens = most + 1
    for index, sample in enumerate(samples):
        num_tokens += len(sample.token_ids)
        if num_tokens > most:
            shards.append([])
            num_tokens = len(sample.token_ids)
        shards[-1].append(index)
    return shards


def cached_features(
    load_model: Callable[[], WholeModel],
    manifest: Manifest,
    samples: Sequence[Sample],
    folder: Path,
    layout: Layout,
    progress: Callable[[int, int], None],
) -> FeatureFile:
    """The features of all texts, from `folder` where an earlier run left these there.

    The model is loaded only where they are not, in the layout's number format. `progress` is called
    with (texts done, texts in all). An interrupted run leaves nothing that could be taken for a
    whole file; another one's file is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, key = folder / FEATURES_FILE, features_key(manifest, samples, layout)
    if not _holds(folder, key):
        _note(folder, "", layout)
        model = load_model()
        partial = folder / f".{FEATURES_FILE}.partial"
        with partial.open("wb") as file:
            for index, sample in enumerate(samples):
                file.write(_features(model, sample, layout).tobytes())
                progress(index + 1, len(samples))
        os.replace(partial, path)
        _note(folder, key, layout)
    return FeatureFile(path, samples, layout)


def features_key(manifest: Manifest, samples: Sequence[Sample], layout: Layout) -> str:
    """What features depend on, as a SHA-256 (hex): model, split, number formats, every token."""
    split = (manifest.fingerprint, manifest.num_input_layers, manifest.num_output_layers)
    named = (split, layout, samples_key(samples))
    return hashlib.sha256(repr(named).encode()).hexdigest()


@torch.inference_mode()
def _features(model: WholeModel, sample: Sample, layout: Layout) -> NDArray[Any]:
    token_ids = sample.token_ids.tolist()
    features = np.zeros(len(token_ids), layout.dtype)
    sequence, scored = model.sequence(), sample.scored()
    for start in range(0, len(token_ids), _CHUNK_TOKENS):
        states = sequence.extend(token_ids[start : start + _CHUNK_TOKENS], start)
        chunk = slice(start, start + len(states.top))
        rows = (states.shallow, states.deep, states.top)[: layout.num_rows]
        features["rows"][chunk] = _numbers(torch.stack(rows, dim=1), layout)
        _put_likeliest(features[chunk], model, states.top, scored[chunk], layout)
    return features


def _put_likeliest(
    features: NDArray[Any], model: WholeModel, top: Tensor, scored: Places, layout: Layout
) -> None:
    """Write the target's likeliest tokens where drafts are scored."""
    if not scored.any():
        return
    rows = top[torch.from_numpy(scored).to(top.device)]
    best = model.head(rows).float().log_softmax(-1).topk(layout.num_likeliest, dim=-1)
    features["likeliest"][scored] = best.indices.cpu().numpy()
    features["log_probs"][scored] = best.values.clamp(min=-_MOST_FLOAT16).cpu().numpy()


def _numbers(rows: Tensor, layout: Layout) -> NDArray[Any]:
    wide = rows.float().cpu()
    return (wide if layout.is_wide else wide.clamp(-_MOST_FLOAT16, _MOST_FLOAT16)).numpy()


def _after_first(length: int) -> Places:
    marks = np.ones(length, np.bool_)
    marks[0] = False
    return marks


def _tensor(array: NDArray[Any], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _note(folder: Path, key: str, layout: Layout) -> None:
    noted = {"key": key, "computed_in": layout.computed_in}
    replace_whole(folder / FEATURES_KEY_FILE, f"{json.dumps(noted)}\n".encode())


def _holds(folder: Path, key: str) -> bool:
    try:
        stored = json.loads((folder / FEATURES_KEY_FILE).read_text())
    except (OSError, ValueError):
        return False
    return bool(stored.get("key") == key) and (folder / FEATURES_FILE).is_file()
