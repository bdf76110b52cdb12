"""`adapter.json` and `adapter.safetensors`: a trained adapter on disk. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.draft_cost import DraftCost
from adapters.model_kinds import why_not_known
from adapters.whole_files import write_json, write_tensors
from process.errors import UserError
from submodels.manifest import BundleFile, Manifest, ModelShape
from submodels.plan.checks import check_shape
from submodels.tensors.file_hashes import sha256_of
from submodels.tensors.tensor_file import TensorFile, TensorFileError
from submodels.tensors.tensor_layout import layer_name, layer_tensor_shapes

CARD_FILE = "adapter.json"
WEIGHTS_FILE = "adapter.safetensors"
CLOSING_NORM = "closing_norm.weight"
DRAFT_VOCABULARY = "draft_vocabulary"
FORMAT_VERSION = 2
# Version 1 had no fed adapters and no draft vocabularies.
_READABLE_VERSIONS = (1, FORMAT_VERSION)

Kind = Literal["attention", "layer", "fed", "block", "eagle", "eagle3"]
"""The last two are heads that others have published (`ImportedHead`)."""
BLOCK_SIZE = 6
"""Tokens that a block adapter drafts in one pass, unless it is trained for another number."""
SEQUEL_WIDTH, SEQUEL_RANK = 512, 128
"""Of the small head that fits a block's tokens to each other: its inner rows, and its state."""
NORM_SHALLOW, NORM_DEEP = "norm_shallow.weight", "norm_deep.weight"
FEED, ABSENT = "fc.weight", "absent"
MASK, CARRY = "mask", "carry"
SEQUEL = "sequel."
"""How the names of that head's tensors begin."""
FEED_BIAS, HIDDEN_NORM, OWN_NORM, OWN_HEAD = (
    "fc.bias",
    "hidden_norm.weight",
    "norm.weight",
    "lm_head.weight",
)
UNLAYERED = frozenset(
    (
        *(CLOSING_NORM, NORM_SHALLOW, NORM_DEEP, FEED, ABSENT),
        *(MASK, CARRY),
        *(FEED_BIAS, HIDDEN_NORM, OWN_NORM, OWN_HEAD),
    )
)
"""The tensors that no decoder layer has, and that are not named after one."""
MAX_DRAFT_TOKENS = 128
"""More than any chain that was seen to pay; what a device keeps of a draft is bounded by it."""

# A card takes a few KiB, most of it rope frequencies; the bound keeps a wrong file out.
_MAX_CARD_BYTES = 1 << 20
Ended = Literal["steps", "minutes", "passes", "flat"]
"""Why a training ended: all its steps, all its minutes, its text seen often enough, or no gain on
held-out text any more."""

_MLP_SUFFIXES = ("post_attention_layernorm.", "mlp.")


class AdapterError(UserError):
    """An adapter is missing, corrupt, or was trained for another model or split."""


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
    num_conversations: int | None = None
    """Of the target's own, that it was trained on; None: on other texts."""
    coverage: float | None = None
    """Share of the tokens of held-out answers that the draft vocabulary has."""


class ImportedHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is told of a published head beside its tensors."""

    source: str
    """The folder or hub id that it was imported from."""
    depths: tuple[int, ...]
    """After how many layers of the model it reads a row: EAGLE-1 and 2 after all of them, EAGLE-3
    at three places, lowest first."""
    norm_before_residual: bool = False
    """Whether an EAGLE-3 layer adds to the normed feature instead of the feature."""
    cost: DraftCost | None = None
    """What drafting with it takes where it was imported, which its stop threshold may rest on."""


class AdapterCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of `adapter.json`."""

    format_version: int
    kind: Kind
    closing_norm: bool
    shape: ModelShape
    """Of the adapter's layer or two (see `adapter_shape`), of which an attention adapter has the
    attention half only."""
    fingerprint: str
    """Of the model it was trained for; the next two are that model's split."""
    num_input_layers: int
    num_output_layers: int
    stop_threshold: float
    """Drafts end before the first token whose top probability is below this."""
    max_draft_tokens: int
    """And after so many."""
    draft_vocabulary_size: int | None = None
    """How many tokens can be drafted, which the weights file names; None: all."""
    training: TrainingFigures | None = None
    """None for a published head, of which nothing is known here."""
    head: ImportedHead | None = None
    """What a published head needs to be run; None for an adapter that was trained here."""
    weights: BundleFile

    @property
    def figures(self) -> TrainingFigures:
        """How it was trained; of adapters that were trained here."""
        assert self.training is not None, "the card of a trained adapter"
        return self.training


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter whose files have passed their checks.

    Tensors are named as those of decoder layer 0 (`model.layers.0.self_attn.q_proj.weight`, ...)
    plus `closing_norm.weight` where the card says so and what a fed adapter has (`tensor_shapes`),
    all float32; and `draft_vocabulary`, int32, where not every token can be drafted.
    """

    path: Path
    card: AdapterCard

    def tensors(self) -> TensorFile:
        """The weights, memory-mapped."""
        return TensorFile(self.path / WEIGHTS_FILE)

    def draft_vocabulary(self) -> NDArray[np.int32] | None:
        """The token ids `[k]`, ascending, that can be drafted; None: all."""
        if self.card.draft_vocabulary_size is None:
            return None
        return np.array(self.tensors().read(DRAFT_VOCABULARY))


def check_model(shape: ModelShape) -> None:
    """Raise an `AdapterError` for a model that adapters do not know."""
    if (reason := why_not_known(shape)) is not None:
        raise AdapterError(reason)


def adapter_shape(shape: ModelShape) -> ModelShape:
    """One plain decoder layer as wide as the model's: no biases, no q/k norms, no window."""
    check_model(shape)
    return msgspec.structs.replace(
        shape,
        num_layers=1,
        sliding_windows=(None,),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
    )


def num_layers_of(kind: Kind) -> int:
    """How many layers an adapter of this kind has."""
    return 2 if kind == "block" else 1


def check_split(kind: Kind, num_output_layers: int) -> None:
    """Return if an adapter of this kind can draft where the device has so many output layers.

    Raises:
        AdapterError: it drafts blocks, and the device has some.
    """
    if kind == "block" and num_output_layers > 0:
        raise AdapterError(
            "an adapter that drafts blocks needs a device without output layers, got "
            f"{num_output_layers}; choose another kind, or split with --output-layers 0"
        )


def tensor_shapes(
    kind: Kind, shape: ModelShape, closing_norm: bool, block_size: int = BLOCK_SIZE
) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of all weights of an adapter whose layers have `shape`.

    `block_size` is how many tokens a block adapter drafts in one pass.
    """
    names = {
        layer_name(index, suffix): size
        for index in range(num_layers_of(kind))
        for suffix, size in layer_tensor_shapes(shape).items()
        if kind != "attention" or not suffix.startswith(_MLP_SUFFIXES)
    }
    hidden = shape.hidden_size
    if kind in ("fed", "block"):
        names |= {NORM_SHALLOW: (hidden,), NORM_DEEP: (hidden,)}
        names |= {FEED: (hidden, 2 * hidden), ABSENT: (hidden,)}
    if kind == "block":
        names |= {MASK: (block_size - 1, hidden), CARRY: (block_size - 1, hidden)}
        names |= {SEQUEL + name: size for name, size in _sequel_shapes(hidden).items()}
    return {**names, CLOSING_NORM: (hidden,)} if closing_norm else names


def _sequel_shapes(hidden: int) -> Mapping[str, tuple[int, ...]]:
    return {
        "norm_row.weight": (hidden,),
        "norm_token.weight": (hidden,),
        "inner.weight": (SEQUEL_WIDTH, hidden),
        "token.weight": (SEQUEL_WIDTH, hidden),
        "state.weight": (SEQUEL_WIDTH, SEQUEL_RANK),
        "squeeze.weight": (SEQUEL_RANK, SEQUEL_WIDTH),
        "out.weight": (hidden, SEQUEL_RANK),
    }


def head_shapes(kind: Kind, shape: ModelShape, num_drafted: int) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of all weights of a published head whose layer has `shape`.

    An EAGLE-3 head guesses among `num_drafted` tokens with an LM head of its own.
    """
    hidden = shape.hidden_size
    layer = dict(layer_tensor_shapes(shape))
    if kind == "eagle":
        del layer["input_layernorm.weight"]
        own: dict[str, tuple[int, ...]] = {FEED: (hidden, 2 * hidden), FEED_BIAS: (hidden,)}
    else:
        for name in ("q_proj", "k_proj", "v_proj"):
            rows, columns = layer[f"self_attn.{name}.weight"]
            layer[f"self_attn.{name}.weight"] = (rows, 2 * columns)
        own = {FEED: (hidden, 3 * hidden), HIDDEN_NORM: (hidden,), OWN_NORM: (hidden,)}
        own[OWN_HEAD] = (num_drafted, hidden)
    return {**{layer_name(0, suffix): size for suffix, size in layer.items()}, **own}


def weight_shapes(card: AdapterCard) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of all weights of a card's adapter."""
    if card.head is None:
        return tensor_shapes(card.kind, card.shape, card.closing_norm, card.max_draft_tokens)
    return head_shapes(card.kind, card.shape, card.draft_vocabulary_size or card.shape.vocab_size)


def write_weights(
    folder: Path,
    tensors: Mapping[str, NDArray[Any]],
    draft_vocabulary: NDArray[np.integer[Any]] | None = None,
) -> BundleFile:
    """Write `adapter.safetensors`, whole or not at all; its size and hash.

    Weights are written in float32; `draft_vocabulary` are the ascending ids `[k]` that can be
    drafted, where these are not all.
    """
    if draft_vocabulary is not None:
        tensors = {**tensors, DRAFT_VOCABULARY: draft_vocabulary}
    return write_tensors(folder / WEIGHTS_FILE, tensors)


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
        if version not in _READABLE_VERSIONS:
            expected = " or ".join(str(known) for known in _READABLE_VERSIONS)
            raise AdapterError(f"{path}: expected format version {expected}, got {version!r}")
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
    check_split(card.kind, card.num_output_layers)
    _check_layer(path, card, manifest)
    if not 0 <= card.stop_threshold <= 1:
        raise AdapterError(
            f"{path}: expected a stop threshold in [0, 1], got {card.stop_threshold}"
        )
    if not 1 <= card.max_draft_tokens <= MAX_DRAFT_TOKENS:
        raise AdapterError(
            f"{path}: expected 1 to {MAX_DRAFT_TOKENS} draft tokens, got {card.max_draft_tokens}"
        )


def _check_layer(path: Path, card: AdapterCard, manifest: Manifest) -> None:
    """A trained adapter has a layer of the model; a published head one that fits beside it."""
    check_model(manifest.shape)
    if card.head is None or card.kind not in ("eagle", "eagle3"):
        if card.head is not None or card.shape != adapter_shape(manifest.shape):
            raise AdapterError(f"{path}: the adapter's shape is not that of a layer of this model")
        return
    try:
        check_shape(card.shape)
    except ValueError as error:
        raise AdapterError(f"{path}: {error}") from error
    for name in ("hidden_size", "vocab_size"):
        came, expected = getattr(card.shape, name), getattr(manifest.shape, name)
        if came != expected:
            raise AdapterError(
                f"{path}: expected the model's {name} of {expected}, got a head for {came}"
            )


def _check_tensors(path: Path, card: AdapterCard) -> None:
    try:
        file = TensorFile(path)
    except TensorFileError as error:
        raise AdapterError(str(error)) from error
    shapes = weight_shapes(card)
    expected = {name: ("F32", shape) for name, shape in shapes.items()}
    if card.draft_vocabulary_size is not None:
        expected[DRAFT_VOCABULARY] = ("I32", (card.draft_vocabulary_size,))
    came = {name: (info.dtype, info.shape) for name, info in file.tensors.items()}
    if came != expected:
        differing = sorted(came.items() ^ expected.items())
        raise AdapterError(f"{path}: tensors do not match {CARD_FILE}: {differing[:4]}")
    if card.draft_vocabulary_size is not None:
        _check_draft_vocabulary(path, file.read(DRAFT_VOCABULARY), card.shape.vocab_size)


def _check_draft_vocabulary(path: Path, ids: NDArray[np.int32], vocab_size: int) -> None:
    if len(ids) == 0 or ids[0] < 0 or ids[-1] >= vocab_size or bool((ids[1:] <= ids[:-1]).any()):
        raise AdapterError(
            f"{path}: expected {DRAFT_VOCABULARY} to hold ascending token ids in "
            f"[0, {vocab_size}), at least one"
        )
