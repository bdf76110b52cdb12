"""`adapter.json` and `adapter.safetensors`: a trained adapter on disk. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from adapters.whole_files import write_float32, write_json
from process.errors import UserError
from submodels.manifest import BundleFile, Manifest, ModelShape
from submodels.tensors.file_hashes import sha256_of
from submodels.tensors.tensor_file import TensorFile, TensorFileError
from submodels.tensors.tensor_layout import layer_name, layer_tensor_shapes

CARD_FILE = "adapter.json"
WEIGHTS_FILE = "adapter.safetensors"
CLOSING_NORM = "closing_norm.weight"
FORMAT_VERSION = 1

Kind = Literal["attention", "layer"]
# A card takes a few KiB, most of it rope frequencies; the bound keeps a wrong file out.
_MAX_CARD_BYTES = 1 << 20
Ended = Literal["steps", "minutes", "passes"]
"""Why a training ended: all its steps, all its minutes, or its text seen often enough."""

_MLP_SUFFIXES = ("post_attention_layernorm.", "mlp.")


class AdapterError(UserError):
    """An adapter is missing, corrupt, or was trained for another model or split."""


class DraftCost(msgspec.Struct, frozen=True, kw_only=True):
    """What drafting costs, in units of one verification round trip without a draft.

    The defaults stand for a round trip of 50 ms, 2.5 ms per draft step and 0.5 ms per row.
    """

    step: float = 0.05
    """One run of the draft model on the device."""
    row: float = 0.01
    """One more row sent and verified."""


class TrainingFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How an adapter came about, and what it reached on the held-out text it was calibrated on.

    What may be None is so in older cards.
    """

    steps: int
    corpus_tokens: int
    passes: float
    loss: float
    training_s: float
    seed: int
    tokens_per_round: float
    """Greedy, with full drafts."""
    stopped_tokens_per_round: float
    """Greedy, with drafts that end at the card's `stop_threshold`, the best one for `cost`."""
    cost: DraftCost
    ended: Ended = "steps"
    num_prompts: int | None = None
    speed: float | None = None
    """What that brings at this cost, in tokens in the time of a round trip without a draft."""
    ngram_tokens_per_round: float | None = None
    """Of prompt lookup on the same text."""
    ngram_speed: float | None = None

    @property
    def is_beaten_by_lookup(self) -> bool:
        """Whether prompt lookup is known to be at least as fast, without any adapter."""
        if self.speed is None or self.ngram_speed is None:
            return False
        return self.ngram_speed >= self.speed


class AdapterCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of `adapter.json`."""

    format_version: int
    kind: Kind
    closing_norm: bool
    shape: ModelShape
    """Of the adapter's one layer (see `adapter_shape`), of which an attention adapter has the
    attention half only."""
    fingerprint: str
    """Of the model it was trained for; the next two are that model's split."""
    num_input_layers: int
    num_output_layers: int
    stop_threshold: float
    """Drafts end before the first token whose top probability is below this."""
    max_draft_tokens: int
    """And after so many."""
    training: TrainingFigures
    weights: BundleFile


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter whose files have passed their checks.

    Tensors are named as those of decoder layer 0 (`model.layers.0.self_attn.q_proj.weight`, ...)
    plus `closing_norm.weight` where the card says so, all float32.
    """

    path: Path
    card: AdapterCard

    def tensors(self) -> TensorFile:
        """The weights, memory-mapped."""
        return TensorFile(self.path / WEIGHTS_FILE)


def adapter_shape(shape: ModelShape) -> ModelShape:
    """One plain decoder layer as wide as the model's: no biases, no q/k norms, no window."""
    return msgspec.structs.replace(
        shape,
        num_layers=1,
        sliding_windows=(None,),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
    )


def tensor_shapes(
    kind: Kind, shape: ModelShape, closing_norm: bool
) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of all tensors of an adapter whose layer has `shape`."""
    names = {
        layer_name(0, suffix): size
        for suffix, size in layer_tensor_shapes(shape).items()
        if kind == "layer" or not suffix.startswith(_MLP_SUFFIXES)
    }
    return {**names, CLOSING_NORM: (shape.hidden_size,)} if closing_norm else names


def write_weights(folder: Path, tensors: Mapping[str, NDArray[Any]]) -> BundleFile:
    """Write `adapter.safetensors` in float32, whole or not at all; its size and hash."""
    return write_float32(folder / WEIGHTS_FILE, tensors)


def write_card(folder: Path, card: AdapterCard) -> None:
    """Write `adapter.json`, whole or not at all; written last, it makes the adapter valid."""
    write_json(folder / CARD_FILE, card, indent=2)


def load_card(folder: Path) -> AdapterCard:
    """The card of the adapter in `folder`, whose weights are not looked at.

    Raises:
        AdapterError: missing, corrupt, or of a newer format.
    """
    return _read_card(folder / CARD_FILE)


def load_adapter(folder: Path, manifest: Manifest) -> StoredAdapter:
    """The adapter in `folder`, checked to belong to the model and split of `manifest`.

    Raises:
        AdapterError: missing, corrupt, of a newer format, or for another model or split.
    """
    card = load_card(folder)
    _check_card(folder / CARD_FILE, card, manifest)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise AdapterError(f"{path} is missing; train the adapter again")
    came = BundleFile(num_bytes=path.stat().st_size, sha256=sha256_of(path))
    if came != card.weights:
        raise AdapterError(f"{path} is corrupt, or of another training than {CARD_FILE} beside it")
    _check_tensors(path, card)
    return StoredAdapter(folder, card)


def _read_card(path: Path) -> AdapterCard:
    try:
        if path.stat().st_size > _MAX_CARD_BYTES:
            raise AdapterError(f"{path} is larger than {_MAX_CARD_BYTES} bytes")
        text = path.read_bytes()
        version = msgspec.json.decode(text, type=dict[str, Any]).get("format_version")
        if version != FORMAT_VERSION:
            raise AdapterError(f"{path}: expected format version {FORMAT_VERSION}, got {version!r}")
        return msgspec.json.decode(text, type=AdapterCard)
    except FileNotFoundError as error:
        raise AdapterError(f"no adapter at {path.parent}: {path.name} is missing") from error
    except OSError as error:
        raise AdapterError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path} is not a valid adapter card: {error}") from error


def _check_card(path: Path, card: AdapterCard, manifest: Manifest) -> None:
    if card.fingerprint not in (manifest.fingerprint, manifest.source_fingerprint):
        raise AdapterError(
            f"{path}: trained for the model with fingerprint {card.fingerprint[:16]}, "
            f"this bundle's is {manifest.fingerprint[:16]}"
        )
    trained = (card.num_input_layers, card.num_output_layers)
    split = (manifest.num_input_layers, manifest.num_output_layers)
    if trained != split:
        raise AdapterError(
            f"{path}: trained for {trained[0]} input and {trained[1]} output layers, "
            f"this bundle has {split[0]} and {split[1]}"
        )
    if card.shape != adapter_shape(manifest.shape):
        raise AdapterError(f"{path}: the adapter's shape is not that of a layer of this model")
    if not 0 <= card.stop_threshold <= 1:
        raise AdapterError(
            f"{path}: expected a stop threshold in [0, 1], got {card.stop_threshold}"
        )
    if card.max_draft_tokens < 1:
        raise AdapterError(f"{path}: expected 1 or more draft tokens, got {card.max_draft_tokens}")


def _check_tensors(path: Path, card: AdapterCard) -> None:
    try:
        tensors = TensorFile(path).tensors
    except TensorFileError as error:
        raise AdapterError(str(error)) from error
    expected = tensor_shapes(card.kind, card.shape, card.closing_norm)
    came = {name: info.shape for name, info in tensors.items()}
    if came != dict(expected) or any(info.dtype != "F32" for info in tensors.values()):
        differing = sorted(came.items() ^ expected.items())
        raise AdapterError(f"{path}: tensors do not match {CARD_FILE}: {differing[:4]}")
