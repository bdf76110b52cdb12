"""A published head, checked against the model of a device bundle, as an adapter's two files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.draft_cost import DraftCost
from adapters.importing.depths import depths_of
from adapters.importing.published import PublishedHead, open_head
from adapters.importing.recognition import kind_of
from adapters.importing.stopping import threshold_at
from adapters.importing.vocabulary import draft_vocabulary
from adapters.storage import (
    FEED_BIAS,
    FORMAT_VERSION,
    HIDDEN_NORM,
    UNLAYERED,
    AdapterCard,
    AdapterError,
    ImportedHead,
    Kind,
    head_shapes,
    load_card,
    write_card,
    write_weights,
)
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.errors import UnsupportedModelError
from submodels.manifest import Manifest, ModelShape
from submodels.plan.plan import read_model
from submodels.tensors.tensor_layout import EMBEDDING, LM_HEAD, Part, layer_name

_LAYER = "layers.0."
_EMBEDDING, _HEAD, _TO_TARGET, _TO_DRAFT = "embed_tokens.weight", "lm_head.weight", "d2t", "t2d"
_IGNORED_SUFFIX = "rotary_emb.inv_freq"
_SHAPE_KEYS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "hidden_act", "rms_norm_eps", "vocab_size", "max_position_embeddings"),
    *("rope_theta", "rope_scaling", "rope_parameters"),
)
# What newer heads do otherwise; where one of these is set, the network is another one.
_OTHER_NETWORKS = ("fc_norm", "norm_before_fc", "norm_output", "use_sliding_window")
_NESTED = "transformer_layer_config"
# Of the table's own size: far above what float16 or four bits make of it, far below the 1.4 that
# two unrelated tables are apart.
_TABLE_TOLERANCE = 0.3
_COMPARED_ROWS = 4096


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """Where drafts of an imported head end, which nobody has calibrated on this device."""

    stop_threshold: float | None = None
    """Before the first token whose top probability is below this; None: what the assumed cost of a
    draft step suggests."""
    max_draft_tokens: int = 6


def import_head(
    head: str,
    bundle_path: Path,
    folder: Path,
    limits: ImportLimits = ImportLimits(),
    depths: Sequence[int] = (),
) -> AdapterCard:
    """Write the published head `head`, a folder or hub id, as an adapter into `folder`.

    `depths` says which rows an EAGLE-3 head reads where its configuration does so in two ways.

    Raises:
        AdapterError: it is no head that is known, or one for another model, or it needs rows that
            this split does not have.
        CheckpointError: it cannot be found or read.
        BundleError: no usable device bundle.
    """
    bundle = load_bundle(bundle_path, "device")
    _check_basis(bundle)
    published = open_head(head)
    kind = kind_of(published)
    shape = _layer_shape(published, bundle.manifest)
    told = ImportedHead(
        source=head,
        depths=_depths(published, kind, bundle.manifest, depths),
        norm_before_residual=bool(published.config.get("norm_before_residual", False)),
    )
    num_drafted = published.shapes[_HEAD][0] if _HEAD in published.shapes else 0
    vocabulary = draft_vocabulary(published, shape.vocab_size) if kind == "eagle3" else None
    _check_names(published, kind, shape, num_drafted)
    _check_borrowed(published, kind, bundle)
    tensors = _tensors(published, kind, shape, num_drafted)
    folder.mkdir(parents=True, exist_ok=True)
    card = AdapterCard(
        format_version=FORMAT_VERSION,
        kind=kind,
        closing_norm=False,
        shape=shape,
        fingerprint=bundle.manifest.fingerprint,
        num_input_layers=bundle.manifest.num_input_layers,
        num_output_layers=bundle.manifest.num_output_layers,
        stop_threshold=_threshold(limits.stop_threshold, DraftCost()),
        max_draft_tokens=limits.max_draft_tokens,
        draft_vocabulary_size=None if vocabulary is None else len(vocabulary),
        head=told,
        weights=write_weights(folder, tensors, vocabulary),
    )
    write_card(folder, card)
    return card


def _check_basis(bundle: Bundle) -> None:
    """A published head reads hidden states as the model has them."""
    if bundle.manifest.wire_rotation is not None:
        raise AdapterError(
            f"the hidden states of {bundle.path} are rotated, and no published head reads such: "
            "split without --wire-rotation"
        )


def with_cost(folder: Path, cost: DraftCost, stop_threshold: float | None = None) -> AdapterCard:
    """Note what drafting with the imported head in `folder` costs, and where drafts end by that.

    `stop_threshold` is the user's word and wins.

    Raises:
        AdapterError: no card there.
    """
    card = load_card(folder)
    assert card.head is not None, "an imported head"
    head = msgspec.structs.replace(card.head, cost=cost)
    card = msgspec.structs.replace(card, head=head, stop_threshold=_threshold(stop_threshold, cost))
    write_card(folder, card)
    return card


def _threshold(asked: float | None, cost: DraftCost) -> float:
    return threshold_at(cost) if asked is None else asked


def _layer_shape(head: PublishedHead, manifest: Manifest) -> ModelShape:
    """The shape of the head's one layer, as its configuration has it."""
    nested = head.config.get(_NESTED)
    config = nested if isinstance(nested, Mapping) else head.config
    _check_variant(head, config)
    wanted: dict[str, Any] = {
        key: config[key] for key in _SHAPE_KEYS if config.get(key) is not None
    }
    wanted.setdefault("vocab_size", manifest.shape.vocab_size)
    try:
        source = read_model({"model_type": "llama", "num_hidden_layers": 1, **wanted})
    except UnsupportedModelError as error:
        raise AdapterError(f"{head.path}: {error}") from error
    has_bias = f"{_LAYER}self_attn.q_proj.bias" in head.shapes
    shape = msgspec.structs.replace(source.shape, qkv_bias=has_bias)
    for name in ("hidden_size", "vocab_size"):
        came, expected = getattr(shape, name), getattr(manifest.shape, name)
        if came != expected:
            raise AdapterError(
                f"{head.path}: a head for a model with {name} {came}, this one has {expected}; "
                f"import one that was made for {manifest.model_name}"
            )
    return shape


def _check_variant(head: PublishedHead, config: Mapping[str, Any]) -> None:
    for key in _OTHER_NETWORKS:
        if head.config.get(key) or config.get(key):
            raise AdapterError(
                f"{head.path}: {key} is set, as in newer EAGLE heads, which are not supported"
            )
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if isinstance(rope, Mapping) and "dynamic" in (rope.get("rope_type"), rope.get("type")):
        # A split ends the model's context where these frequencies would change, a head cannot.
        raise AdapterError(f"{head.path}: rope type 'dynamic' is not supported")
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise AdapterError(f"{head.path}: layers of the kind {sorted(kinds)} are not supported")


def _depths(
    head: PublishedHead, kind: Kind, manifest: Manifest, asked: Sequence[int]
) -> tuple[int, ...]:
    num_layers = manifest.shape.num_layers
    if kind == "eagle":
        return (num_layers,)
    depths = depths_of(head.config, num_layers, asked)
    low, high = manifest.num_input_layers, num_layers - manifest.num_output_layers - 1
    if not all(low <= depth <= high for depth in depths) or len(set(depths)) < len(depths):
        raise AdapterError(
            f"{head.path}: the head reads rows after {', '.join(map(str, depths))} layers, and "
            f"with this split a device has or gets those after {low} to {high}; split with at most "
            f"{min(depths)} input and at most {num_layers - max(depths) - 1} output layers"
        )
    return depths


def _check_names(head: PublishedHead, kind: Kind, shape: ModelShape, num_drafted: int) -> None:
    """Every tensor the network needs is there in its size, and none that it does not know."""
    expected = {
        _published_name(name): size for name, size in head_shapes(kind, shape, num_drafted).items()
    }
    optional = {FEED_BIAS} if kind == "eagle" else set()
    for name, size in expected.items():
        came = head.shapes.get(name)
        if came is None and name in optional:
            continue
        if came != size:
            got = "is missing" if came is None else f"has the shape {list(came)}"
            raise AdapterError(f"{head.path}: {name} {got}, expected {list(size)}")
    borrowed = {_EMBEDDING, _HEAD} | ({_TO_TARGET, _TO_DRAFT} if kind == "eagle3" else set())
    unknown = sorted(
        name
        for name in head.shapes.keys() - expected.keys() - borrowed
        if not name.endswith(_IGNORED_SUFFIX)
    )
    if unknown:
        raise AdapterError(
            f"{head.path}: {len(unknown)} tensors have no place in an EAGLE head: "
            f"{', '.join(unknown[:4])}; variants with further parts are not supported"
        )


def _check_borrowed(head: PublishedHead, kind: Kind, bundle: Bundle) -> None:
    """A head that brings the model's embedding or LM head brings those of this model."""
    brought = {_EMBEDDING: (Part.INPUT, EMBEDDING)}
    if kind == "eagle":
        tied = bundle.manifest.shape.tied_embeddings
        brought[_HEAD] = brought[_EMBEDDING] if tied else (Part.OUTPUT, LM_HEAD)
    for name, (part, own_name) in brought.items():
        if name not in head.shapes:
            continue
        own = bundle.read_tensor(part, own_name)
        if head.shapes[name] != own.shape or not _is_near(head.numbers(name), own):
            raise AdapterError(
                f"{head.path}: its {name} is not that of {bundle.manifest.model_name}; import a "
                "head that was made for this model"
            )


def _is_near(table: NDArray[np.float32], own: NDArray[Any]) -> bool:
    """Whether two tables are one, be it in different number formats or quantised."""
    apart = size = 0.0
    for start in range(0, len(own), _COMPARED_ROWS):
        rows = own[start : start + _COMPARED_ROWS].astype(np.float32)
        apart += float(np.square(table[start : start + _COMPARED_ROWS] - rows).sum())
        size += float(np.square(rows).sum())
    return apart <= _TABLE_TOLERANCE**2 * size


def _tensors(
    head: PublishedHead, kind: Kind, shape: ModelShape, num_drafted: int
) -> dict[str, NDArray[np.float32]]:
    tensors = {}
    for name, size in head_shapes(kind, shape, num_drafted).items():
        published = _published_name(name)
        if name == FEED_BIAS and published not in head.shapes:
            tensors[name] = np.zeros(size, np.float32)
        else:
            tensors[name] = head.numbers(published)
    return tensors


def _published_name(name: str) -> str:
    """What a tensor of `adapter.safetensors` is called in a published head."""
    if name == HIDDEN_NORM:
        return f"{_LAYER}{name}"
    return name if name in UNLAYERED else _LAYER + name.removeprefix(layer_name(0, ""))
