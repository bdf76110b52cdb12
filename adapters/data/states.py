"""Shallow and top states of a corpus, computed once and kept in a file rather than in memory."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.data.corpus import Tokens
from adapters.data.whole_model import WholeModel
from submodels.manifest import Manifest

STATES_FILE = "states.f32"
STATES_KEY_FILE = "states.json"
_ITEM_BYTES = 4
# Attention over a whole window at once would compute the half that is masked, and hold it all:
# for 440 tokens of stories260k this size takes 0.6 of the time.
_CHUNK_TOKENS = 128
# Shallow and top.
_ROWS_PER_TOKEN = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows side by side `[B, T, H]`; `known` `[B, T]` is false where a shorter one has ended."""

    shallow: Tensor
    top: Tensor
    known: Tensor


class StateFile:
    """States of windows in one memory-mapped file `[num_tokens, 2, H]`, float32."""

    def __init__(self, path: Path, lengths: Sequence[int], hidden_size: int) -> None:
        self._lengths = list(lengths)
        ends = np.cumsum(self._lengths)
        self._starts = [0, *ends[:-1].tolist()]
        shape = (int(ends[-1]), _ROWS_PER_TOKEN, hidden_size)
        self._rows: NDArray[np.float32] = np.memmap(path, np.float32, "r", shape=shape)

    def batch(self, windows: Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """The states of the windows with these indices."""
        longest = max(self._lengths[index] for index in windows)
        rows = np.zeros((len(windows), longest, *self._rows.shape[1:]), np.float32)
        known = np.zeros((len(windows), longest), np.bool_)
        for slot, index in enumerate(windows):
            start, length = self._starts[index], self._lengths[index]
            rows[slot, :length] = self._rows[start : start + length]
            known[slot, :length] = True
        states = torch.from_numpy(rows).to(device)
        return Batch(states[:, :, 0], states[:, :, 1], torch.from_numpy(known).to(device))


def max_tokens_in(max_state_bytes: int, hidden_size: int) -> int:
    """How many tokens' states fit into a file of this size."""
    return max_state_bytes // (_ROWS_PER_TOKEN * hidden_size * _ITEM_BYTES)


def cached_states(
    model: WholeModel,
    windows: Sequence[Tokens],
    folder: Path,
    progress: Callable[[int, int], None],
) -> StateFile:
    """The states of all windows, from `folder` where an earlier run left them there.

    `progress` is called with (windows done, windows in all). An interrupted run leaves nothing
    that could be taken for a whole file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, key = folder / STATES_FILE, states_key(model.manifest, windows)
    if not _holds(folder, key):
        (folder / STATES_KEY_FILE).unlink(missing_ok=True)
        partial = folder / f".{STATES_FILE}.partial"
        _write(model, windows, partial, progress)
        os.replace(partial, path)
        (folder / STATES_KEY_FILE).write_text(json.dumps({"key": key}) + "\n")
    return StateFile(path, [len(window) for window in windows], model.manifest.shape.hidden_size)


def states_key(manifest: Manifest, windows: Sequence[Tokens]) -> str:
    """What the states depend on, as a SHA-256 (hex): model, split, and every token."""
    digest = hashlib.sha256()
    split = (manifest.fingerprint, manifest.num_input_layers, manifest.num_output_layers)
    digest.update(repr(split).encode())
    for window in windows:
        digest.update(len(window).to_bytes(4, "little"))
        digest.update(window.astype("<i4").tobytes())
    return digest.hexdigest()


def _holds(folder: Path, key: str) -> bool:
    try:
        stored = json.loads((folder / STATES_KEY_FILE).read_text())
    except (OSError, ValueError):
        return False
    return bool(stored == {"key": key}) and (folder / STATES_FILE).is_file()


@torch.inference_mode()
def _write(
    model: WholeModel,
    windows: Sequence[Tokens],
    path: Path,
    progress: Callable[[int, int], None],
) -> None:
    with path.open("wb") as file:
        for index, window in enumerate(windows):
            sequence, token_ids = model.sequence(), window.tolist()
            for start in range(0, len(token_ids), _CHUNK_TOKENS):
                states = sequence.extend(token_ids[start : start + _CHUNK_TOKENS], start)
                rows = torch.stack((states.shallow, states.top), dim=1)
                file.write(rows.float().cpu().numpy().tobytes())
            progress(index + 1, len(windows))
