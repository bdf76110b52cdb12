"""An adapter into a device bundle, in the forms that device engines read. Needs no torch."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from adapters.storage import (
    ABSENT,
    CARD_FILE,
    CLOSING_NORM,
    FEED,
    NORM_DEEP,
    NORM_SHALLOW,
    WEIGHTS_FILE,
    AdapterCard,
    StoredAdapter,
    load_adapter,
    num_layers_of,
)
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.files import replace_files
from submodels.onnx.files import WEIGHTS_FORMATS, Graph, graph_file
from submodels.tensors.tensor_file import TensorFile

if TYPE_CHECKING:
    from submodels.onnx.layers import Feed

# The default of a device's `--draft-weights`.
_DRAFT_WEIGHTS = "int8"


def install_adapter(bundle_path: Path, adapter_dir: Path) -> AdapterCard:
    """Put the adapter in `adapter_dir` into a device bundle, in place of one that is there.

    A bundle with ONNX parts gets the adapter as ONNX too, in every weights format: it is small, and
    its format may differ from theirs. It also gets a head of the tokens that can be drafted, in
    every format too; or, where all can, the head in int8, in which drafts are made unless the
    device is told otherwise.

    Raises:
        BundleError: no usable device bundle.
        AdapterError: no adapter there, or one for another model or split.
        OSError: a file cannot be written.
    """
    bundle = load_bundle(bundle_path, "device")
    stored = load_adapter(adapter_dir, bundle.manifest)
    with TemporaryDirectory(prefix="hat-adapter-") as name:
        folder = Path(name)
        for file in (WEIGHTS_FILE, CARD_FILE):
            shutil.copyfile(adapter_dir / file, folder / file)
        if bundle.manifest.onnx_weights:
            if stored.card.head is not None:
                _write_head_onnx(bundle, stored, folder)
            else:
                write_adapter_onnx(stored, folder)
                _write_draft_head(bundle, stored, folder)
        replace_files(bundle, _graph_files(), sorted(folder.iterdir()))
    return stored.card


def install_beside(bundle_path: Path, adapter_dir: Path, out: Path) -> Path:
    """The device bundle with another adapter, in the new folder `out`; the bundle stays as it is.

    Its files are linked rather than copied where that can be. Raises as `install_adapter`.
    """
    source = load_bundle(bundle_path, "device").path

    def place(name: str, target: str) -> None:
        try:
            os.link(name, target)
        except OSError:
            shutil.copyfile(name, target)

    shutil.copytree(source, out, copy_function=place)
    install_adapter(out, adapter_dir)
    return out


def _write_head_onnx(bundle: Bundle, stored: StoredAdapter, folder: Path) -> None:
    """A published head's graphs, in every weights format."""
    from submodels.onnx import heads
    from submodels.onnx.builder import GraphBuilder
    from submodels.onnx.graphs import bare_head_graph, weights_format

    card, tensors = stored.card, stored.tensors()
    assert card.head is not None, "a published head"
    for name in WEIGHTS_FORMATS:
        layer = GraphBuilder(Graph.ADAPTER, weights_format(name))
        if card.kind == "eagle":
            heads.add_eagle(layer, card.shape, tensors)
            bare_head_graph(bundle.path, bundle.manifest.shape, name).save(folder)
        else:
            heads.add_eagle3(layer, card.shape, tensors, card.head.norm_before_residual)
            own_head = GraphBuilder(Graph.DRAFT_HEAD, weights_format(name))
            heads.add_own_head(own_head, card.shape, tensors)
            own_head.save(folder)
            fusion = GraphBuilder(Graph.FEATURES, weights_format(name))
            heads.add_fusion(fusion, card.shape, tensors)
            fusion.save(folder)
        layer.save(folder)


def _write_draft_head(bundle: Bundle, stored: StoredAdapter, folder: Path) -> None:
    from submodels.onnx.graphs import block_head_graphs, draft_head_graph, head_graph

    shape, vocabulary = bundle.manifest.shape, stored.draft_vocabulary()
    if stored.card.kind == "block":
        tensors = stored.tensors()
        for weights in WEIGHTS_FORMATS:
            for graph in block_head_graphs(bundle.path, shape, vocabulary, tensors, weights):
                graph.save(folder)
    elif vocabulary is not None:
        for weights in WEIGHTS_FORMATS:
            draft_head_graph(bundle.path, shape, vocabulary, weights).save(folder)
    elif graph_file(Graph.HEAD, _DRAFT_WEIGHTS) not in bundle.manifest.files:
        head_graph(bundle.path, shape, _DRAFT_WEIGHTS).save(folder)


def _graph_files() -> list[str]:
    """Every graph of an adapter that a bundle may hold, and the weights of a large one."""
    graphs = (Graph.ADAPTER, Graph.DRAFT_HEAD, Graph.DRAFT_STEP, Graph.FEATURES)
    names = [graph_file(graph, weights) for graph in graphs for weights in WEIGHTS_FORMATS]
    return [file for name in names for file in (name, f"{name}.data")]


def write_adapter_onnx(
    stored: StoredAdapter, folder: Path, weights: Sequence[str] = WEIGHTS_FORMATS
) -> list[str]:
    """Write `adapter.<weights>.onnx` into a folder, once per weights format.

    Returns:
        The names of the files written.
    """
    from submodels.onnx.builder import GraphBuilder
    from submodels.onnx.graphs import weights_format
    from submodels.onnx.layers import add_decoder_stack

    card, tensors = stored.card, stored.tensors()
    written: list[str] = []
    for name in weights:
        builder = GraphBuilder(Graph.ADAPTER, weights_format(name))
        add_decoder_stack(
            builder,
            card.shape,
            card.shape.sliding_windows * num_layers_of(card.kind),
            tensors,
            has_mlp=card.kind != "attention",
            closing_norm=tensors.read(CLOSING_NORM) if card.closing_norm else None,
            feed=_feed(tensors) if card.kind in ("fed", "block") else None,
        )
        written += builder.save(folder)
    return written


def _feed(tensors: TensorFile) -> "Feed":
    from submodels.onnx.layers import Feed
    from submodels.onnx.matrices import plain_matrix

    return Feed(
        norm_shallow=tensors.read(NORM_SHALLOW),
        norm_deep=tensors.read(NORM_DEEP),
        absent=tensors.read(ABSENT),
        matrix=plain_matrix(tensors.read(FEED)),
    )
