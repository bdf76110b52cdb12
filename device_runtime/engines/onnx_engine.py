"""The device engine on ONNX Runtime, for machines without torch.

Float32 weights compute what the checkpoint says; int8 and int4 are smaller and faster, and
change what the whole model answers, since they round the input and output submodels too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from adapters.storage import StoredAdapter, num_layers_of
from device_runtime.engines.attention_memory import RotaryTables
from device_runtime.engines.bundle_adapter import (
    draft_limits,
    draft_vocabulary,
    head_reads,
    new_adapter_state,
    new_head_state,
    stored_adapter,
)
from device_runtime.engines.checks import num_threads
from device_runtime.engines.draft_model import DraftModel
from device_runtime.engines.engine import Rows, StackCache
from device_runtime.engines.head_adapter import Features
from device_runtime.engines.onnx_blocks import Embed, OnnxBlockHead
from device_runtime.engines.onnx_choice import Wanted, engine_on
from device_runtime.engines.onnx_sessions import Provider, open_session
from device_runtime.engines.onnx_stack import OnnxStack
from device_runtime.engines.submodel_engine import SubmodelEngine, Submodels, engine_limits
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.errors import BundleError
from submodels.onnx.files import LOGITS, NEW_ROWS, ROWS, Graph, graph_file
from submodels.tensors.tensor_layout import EMBEDDING, FINAL_NORM, Part

_ON_CPU = Wanted()


def load_onnx_engine(
    bundle_path: Path,
    weights: str,
    threads: int | None,
    max_context_tokens: int | None,
    draft_weights: str | None = None,
    provider: Wanted = _ON_CPU,
) -> SubmodelEngine:
    """The engine of a device bundle with `weights` (float32, int8 or int4).

    `threads` None takes all cores but one, `max_context_tokens` None the model's own. It drafts
    with the bundle's adapter, if there is one in `draft_weights`, and with the head in these too
    where the bundle has it; None does without. Layers and head run on the `provider`, all else on
    the CPU.

    Raises:
        BundleError: no usable bundle, or split without these weights.
        ValueError: a context longer than the model's, no thread, or a provider that cannot be used.
    """
    bundle = load_bundle(bundle_path, "device")
    limits = engine_limits(bundle.manifest, max_context_tokens)
    intra_op_threads = num_threads(threads)

    def build(chosen: Provider) -> SubmodelEngine:
        made = _Made(bundle, weights, draft_weights, intra_op_threads, chosen)
        submodels = _submodels(made, limits.max_context_tokens)
        return SubmodelEngine(submodels, limits, chosen.name)

    return engine_on(provider, build, onnxruntime.get_available_providers())


@dataclass(frozen=True, slots=True)
class _Made:
    """What an engine is made of."""

    bundle: Bundle
    weights: str
    draft_weights: str | None
    threads: int
    provider: Provider


def _submodels(made: _Made, max_context_tokens: int) -> Submodels:
    bundle, manifest = made.bundle, made.bundle.manifest
    shape = manifest.shape

    def session(graph: Graph) -> onnxruntime.InferenceSession:
        path = _graph_path(bundle, graph, made.weights)
        return open_session(path, made.threads, made.provider)

    rotary = RotaryTables(shape.ropes, max_context_tokens)

    def new_cache(graph: Graph, num_layers: int) -> Callable[[], StackCache] | None:
        return OnnxStack(session(graph), shape, rotary).new_cache if num_layers else None

    embed = _embedding(bundle)
    head = _head(session(Graph.HEAD))
    return Submodels(
        embed=embed,
        new_input_cache=new_cache(Graph.INPUT, manifest.num_input_layers),
        new_output_cache=new_cache(Graph.OUTPUT, manifest.num_output_layers),
        head=head,
        draft_model=None
        if made.draft_weights is None
        else _draft_model(bundle, made.draft_weights, rotary, made.threads, head, embed),
    )


def _embedding(bundle: Bundle) -> Embed:
    """Rows as they enter the first layer, of token ids.

    Looked up in the memory-mapped tensor: it exists once whatever the weights, and only the pages
    in use are in memory.
    """
    table = np.asarray(bundle.read_tensor(Part.INPUT, EMBEDDING))
    scale = np.float32(bundle.manifest.shape.described.embedding_scale)

    def embed(token_ids: NDArray[np.int64]) -> Rows:
        rows: Rows = table[token_ids].astype(np.float32)
        return rows if scale == 1 else rows * scale

    return embed


def _draft_model(
    bundle: Bundle,
    weights: str,
    rotary: RotaryTables,
    threads: int,
    target_head: Callable[[Rows], Rows],
    embed: Embed,
) -> DraftModel | None:
    """The bundle's adapter in `weights`, if it has one, with a head in these or the target's."""
    files = bundle.manifest.files
    stored = stored_adapter(bundle)
    adapter_file = graph_file(Graph.ADAPTER, weights)
    if stored is None or adapter_file not in files:
        return None
    if stored.card.head is not None:
        return _published_head(bundle, stored, weights, rotary.max_positions, threads)
    vocabulary = draft_vocabulary(stored)
    layers = msgspec.structs.replace(stored.card.shape, num_layers=num_layers_of(stored.card.kind))
    adapter = OnnxStack(open_session(bundle.path / adapter_file, threads), layers, rotary)
    new_state = new_adapter_state(bundle, stored, adapter.new_cache)
    if stored.card.kind == "block":
        head_session, step_session = (
            open_session(_graph_path(bundle, graph, weights), threads)
            for graph in (Graph.DRAFT_HEAD, Graph.DRAFT_STEP)
        )
        block = OnnxBlockHead(head_session, step_session, embed, stored.card.max_draft_tokens)
        return DraftModel(new_state, target_head, draft_limits(stored), vocabulary, block=block)
    head_graph = Graph.HEAD if vocabulary is None else Graph.DRAFT_HEAD
    head_file, head = graph_file(head_graph, weights), target_head
    if head_file in files:
        head = _head(open_session(bundle.path / head_file, threads))
    elif vocabulary is not None:
        raise BundleError(f"{bundle.path} lists {adapter_file} and not {head_file}")
    return DraftModel(new_state, head, draft_limits(stored), vocabulary)


def _published_head(
    bundle: Bundle, stored: StoredAdapter, weights: str, max_positions: int, threads: int
) -> DraftModel:
    """The bundle's published head; its rotary positions and LM head are its own."""

    def session(graph: Graph) -> onnxruntime.InferenceSession:
        return open_session(_graph_path(bundle, graph, weights), threads)

    shape = stored.card.shape
    layer = OnnxStack(session(Graph.ADAPTER), shape, RotaryTables(shape.ropes, max_positions))
    reads = head_reads(stored)
    features = _fusion(session(Graph.FEATURES)) if reads.taps else _final_norm(bundle)
    return DraftModel(
        new_head_state(bundle, layer.new_cache, features, reads),
        _head(session(Graph.DRAFT_HEAD)),
        draft_limits(stored),
        draft_vocabulary(stored),
        is_published_head=True,
        taps=reads.taps,
    )


def _fusion(session: onnxruntime.InferenceSession) -> Features:
    def features(rows: Rows) -> Rows:
        fused: Rows = session.run([NEW_ROWS], {ROWS: rows})[0]
        return fused

    return features


def _final_norm(bundle: Bundle) -> Features:
    """The model's final norm by itself, float32."""
    weight = bundle.read_tensor(Part.OUTPUT, FINAL_NORM).astype(np.float32)
    epsilon = np.float32(bundle.manifest.shape.rms_norm_eps)

    def features(rows: Rows) -> Rows:
        scale = np.sqrt(np.square(rows).mean(axis=-1, keepdims=True) + epsilon)
        normed: Rows = rows / scale * weight
        return normed

    return features


def _graph_path(bundle: Bundle, graph: Graph, weights: str) -> Path:
    name = graph_file(graph, weights)
    if name not in bundle.manifest.files:
        there = ", ".join(bundle.manifest.onnx_weights) or "none"
        raise BundleError(
            f"{bundle.path} holds no {name}: expected ONNX weights {weights}, the bundle has "
            f"{there}; split again with `hat split --onnx-weights {weights}`, or choose others"
        )
    return bundle.path / name


def _head(session: onnxruntime.InferenceSession) -> Callable[[Rows], Rows]:
    """Final norm and LM head."""

    def head(rows: Rows) -> Rows:
        logits: Rows = session.run([LOGITS], {ROWS: rows})[0]
        return logits

    return head
