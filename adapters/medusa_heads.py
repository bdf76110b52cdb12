"""Medusa-1 heads on disk and in numpy: guesses of later tokens from one deep row. Needs no torch.

Head d (counted from 1) guesses the token d places behind the one that the model's own head chooses
from the same row: `vocabulary(x + silu(block(x)))`, x being the row after the final norm.

Source: Cai et al., 2024 (Medusa, arXiv:2401.10774), section 2.1, with untied vocabulary layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.model_kinds import why_not_known
from adapters.whole_files import write_json, write_tensors
from submodels.bundle.bundle import load_bundle
from submodels.bundle.files import replace_files
from submodels.manifest import BundleFile, Manifest
from submodels.tensors.file_hashes import sha256_of
from submodels.tensors.tensor_file import TensorFile, TensorFileError

HEADS_CARD_FILE = "medusa.json"
HEADS_WEIGHTS_FILE = "medusa.safetensors"
HEADS_FORMAT_VERSION = 2

_READABLE_VERSIONS = (1, HEADS_FORMAT_VERSION)
"""Cards of version 1 say besides which tree of guesses was to be verified; nothing reads that."""

_NORM, _BLOCK, _BIAS, _VOCABULARY = "norm", "block.weight", "block.bias", "vocabulary.weight"

Numbers = NDArray[np.float32]


class MedusaError(ValueError):
    """Heads are missing, corrupt, or were trained for another model."""


class HeadsTraining(msgspec.Struct, frozen=True, kw_only=True):
    """How the heads came about."""

    steps: int
    corpus_tokens: int
    loss: float
    training_s: float
    seed: int
    first_choice_shares: tuple[float, ...]
    """How often the best guess of each head was the model's token."""
    tokens_per_round: float
    """Of greedy held-out text, with every head's best guess sent (in version 1: with its tree)."""


class HeadsCard(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of `medusa.json`."""

    format_version: int
    fingerprint: str
    hidden_size: int
    vocab_size: int
    num_heads: int
    rms_norm_eps: float
    training: HeadsTraining
    weights: BundleFile


@dataclass(frozen=True, slots=True)
class MedusaHeads:
    """Heads that can guess. `blocks` `[N, H, H]`, `biases` `[N, H]`, `vocabularies` `[N, V, H]`."""

    eps: float
    norm: Numbers
    blocks: Numbers
    biases: Numbers
    vocabularies: Numbers

    @property
    def num_heads(self) -> int:
        """How many tokens can be guessed from one row."""
        return len(self.blocks)

    def logits(self, deep: Numbers, num_heads: int) -> Numbers:
        """Logits `[num_heads, V]` of the first heads, from a deep row `[H]` before the final norm.

        There are as many rows as heads where more are asked for.
        """
        x = deep * self.norm / np.sqrt(np.mean(deep * deep) + self.eps)
        gate = self.blocks[:num_heads] @ x + self.biases[:num_heads]
        hidden = x + gate / (1.0 + np.exp(-gate))
        logits: Numbers = (self.vocabularies[:num_heads] @ hidden[:, :, None])[:, :, 0]
        return logits


def head_tensor_shapes(
    hidden_size: int, vocab_size: int, num_heads: int
) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of all tensors of the heads."""
    shapes: dict[str, tuple[int, ...]] = {_NORM: (hidden_size,)}
    for index in range(num_heads):
        shapes[f"{index}.{_BLOCK}"] = (hidden_size, hidden_size)
        shapes[f"{index}.{_BIAS}"] = (hidden_size,)
        shapes[f"{index}.{_VOCABULARY}"] = (vocab_size, hidden_size)
    return shapes


def write_heads_weights(folder: Path, tensors: Mapping[str, NDArray[Any]]) -> BundleFile:
    """Write `medusa.safetensors` in float32, whole or not at all; its size and hash."""
    return write_tensors(folder / HEADS_WEIGHTS_FILE, tensors)


def write_heads_card(folder: Path, card: HeadsCard) -> None:
    """Write `medusa.json`, whole or not at all; written last, it makes the heads valid."""
    write_json(folder / HEADS_CARD_FILE, card, indent=1)


def install_heads(bundle_path: Path, folder: Path) -> Manifest:
    """Put the heads in `folder` into a device bundle; its manifest from now on.

    Raises:
        BundleError: no usable device bundle.
        MedusaError: no heads there, for another model, or the device has output layers.
        OSError: a file cannot be written.
    """
    bundle = load_bundle(bundle_path, "device")
    load_heads(folder, bundle.manifest)
    return replace_files(bundle, (), [folder / HEADS_CARD_FILE, folder / HEADS_WEIGHTS_FILE])


def load_heads(folder: Path, manifest: Manifest) -> MedusaHeads:
    """The heads in `folder`, for the model of `manifest`.

    Raises:
        MedusaError: missing, corrupt, for another model, or the device has output layers.
    """
    card = _read_card(folder / HEADS_CARD_FILE)
    if card.fingerprint not in (manifest.fingerprint, manifest.source_fingerprint):
        raise MedusaError(f"{folder}: the heads are of another model than the bundle")
    if (reason := why_not_known(manifest.shape)) is not None:
        raise MedusaError(reason)
    if manifest.num_output_layers > 0:
        raise MedusaError(
            "Medusa heads need the model's last hidden state from the cloud: expected a bundle "
            f"without output layers, got {manifest.num_output_layers}"
        )
    path = folder / HEADS_WEIGHTS_FILE
    if not path.is_file() or sha256_of(path) != card.weights.sha256:
        raise MedusaError(f"{path} is missing, corrupt, or of another training than its card")
    try:
        file = TensorFile(path)
    except TensorFileError as error:
        raise MedusaError(str(error)) from error
    shapes = head_tensor_shapes(card.hidden_size, card.vocab_size, card.num_heads)
    if {name: info.shape for name, info in file.tensors.items()} != dict(shapes):
        raise MedusaError(f"{path}: tensors do not match {HEADS_CARD_FILE}")

    def stacked(name: str) -> Numbers:
        return np.stack([file.read(f"{index}.{name}") for index in range(card.num_heads)])

    return MedusaHeads(
        eps=card.rms_norm_eps,
        norm=file.read(_NORM),
        blocks=stacked(_BLOCK),
        biases=stacked(_BIAS),
        vocabularies=stacked(_VOCABULARY),
    )


def _read_card(path: Path) -> HeadsCard:
    try:
        card = msgspec.json.decode(path.read_bytes(), type=HeadsCard)
    except OSError as error:
        raise MedusaError(f"cannot read {path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise MedusaError(f"{path} is not a valid card of heads: {error}") from error
    if card.format_version not in _READABLE_VERSIONS:
        expected, got = " or ".join(map(str, _READABLE_VERSIONS)), card.format_version
        raise MedusaError(f"{path}: expected format version {expected}, got {got}")
    if card.num_heads < 1:
        raise MedusaError(f"{path}: expected at least one head, got {card.num_heads}")
    return card
