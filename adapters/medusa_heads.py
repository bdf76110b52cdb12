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

from adapters.whole_files import write_float32, write_json
from submodels.bundle.bundle import load_bundle
from submodels.bundle.files import replace_files
from submodels.manifest import BundleFile, Manifest
from submodels.tensors.file_hashes import sha256_of
from submodels.tensors.tensor_file import TensorFile, TensorFileError
from wire.trees import MAX_TREE_ROWS

HEADS_CARD_FILE = "medusa.json"
HEADS_WEIGHTS_FILE = "medusa.safetensors"
HEADS_FORMAT_VERSION = 1

_NORM, _BLOCK, _BIAS, _VOCABULARY = "norm", "block.weight", "block.bias", "vocabulary.weight"

Numbers = NDArray[np.float32]


class MedusaError(ValueError):
    """Heads are missing, corrupt, or were trained for another model."""


class TreeNode(msgspec.Struct, frozen=True, array_like=True):
    """One guess of a tree: the `rank`-th best (from 0) of the head of its depth.

    `parent` is the row of the guess before it, counted from 1; 0 is the text's last token.
    """

    parent: int
    rank: int


class HeadsTraining(msgspec.Struct, frozen=True, kw_only=True):
    """How the heads came about.

    `tokens_per_round` is greedy with the card's tree, on the held-out text that chose the tree;
    `first_choice_shares[d]` says how often the best guess of head d + 1 was the model's token.
    """

    steps: int
    corpus_tokens: int
    loss: float
    training_s: float
    seed: int
    first_choice_shares: tuple[float, ...]
    tokens_per_round: float


class HeadsCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of `medusa.json`. `tree` is in an order in which parents come first."""

    format_version: int
    fingerprint: str
    hidden_size: int
    vocab_size: int
    num_heads: int
    rms_norm_eps: float
    tree: tuple[TreeNode, ...]
    training: HeadsTraining
    weights: BundleFile


@dataclass(frozen=True, slots=True)
class MedusaHeads:
    """Heads that can guess. `blocks` `[N, H, H]`, `biases` `[N, H]`, `vocabularies` `[N, V, H]`."""

    tree: tuple[TreeNode, ...]
    eps: float
    norm: Numbers
    blocks: Numbers
    biases: Numbers
    vocabularies: Numbers

    def logits(self, deep: Numbers) -> Numbers:
        """Logits `[N, V]`, one row per head, from the deep row `[H]` that enters the final norm."""
        x = deep * self.norm / np.sqrt(np.mean(deep * deep) + self.eps)
        gate = self.blocks @ x + self.biases
        hidden = x + gate / (1.0 + np.exp(-gate))
        logits: Numbers = (self.vocabularies @ hidden[:, :, None])[:, :, 0]
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
    return write_float32(folder / HEADS_WEIGHTS_FILE, tensors)


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

    parts = (file.read(_NORM), stacked(_BLOCK), stacked(_BIAS), stacked(_VOCABULARY))
    return MedusaHeads(card.tree, card.rms_norm_eps, *parts)


def _read_card(path: Path) -> HeadsCard:
    try:
        card = msgspec.json.decode(path.read_bytes(), type=HeadsCard)
    except OSError as error:
        raise MedusaError(f"cannot read {path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise MedusaError(f"{path} is not a valid card of heads: {error}") from error
    if card.format_version != HEADS_FORMAT_VERSION:
        got = card.format_version
        raise MedusaError(f"{path}: expected format version {HEADS_FORMAT_VERSION}, got {got}")
    depths = [0]
    for row, node in enumerate(card.tree, start=1):
        if not 0 <= node.parent < row or not 0 <= node.rank < card.vocab_size:
            raise MedusaError(f"{path}: expected parents before their children, got {node}")
        depths.append(depths[node.parent] + 1)
    if not card.tree or max(depths) > card.num_heads:
        raise MedusaError(f"{path}: expected a tree of depth 1 to {card.num_heads}")
    # Before a tree go the tokens of the longest way through the last one, and the target's own.
    most = len(card.tree) + max(depths) + 1
    if most > MAX_TREE_ROWS:
        raise MedusaError(f"{path}: expected trees in {MAX_TREE_ROWS} rows, got {most}")
    return card
