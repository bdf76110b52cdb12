"""Collecting the nodes and weights of one ONNX graph."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from submodels.onnx.files import Graph, WeightsFormat, graph_file
from submodels.onnx.matrices import Float32, Matrix
from submodels.onnx.model_file import INLINE_LIMIT_BYTES, Initializer, write_model
from submodels.onnx.quantisation import BLOCK, block_scales, num_blocks, quantise

MICROSOFT = "com.microsoft"
_BITS = {"int8": 8, "int4": 4}
# MatMulNBits rounds activations to int8 too: 2-3 times faster for little further error.
_INT8_ACTIVATIONS = 4
Dimension = int | str


class GraphBuilder:
    """A graph in the making; matrices are written in `weights` format, all else in float32.

    With `names_places` the graph will lie beside the files of its matrices. In float32 it then
    holds none, but names their places; while it is loaded, ONNX Runtime reads them there, widens
    them and puts those together that are one product.
    """

    def __init__(self, graph: Graph, weights: WeightsFormat, *, names_places: bool = False) -> None:
        self._graph = graph
        self._weights = weights
        self._names_places = names_places
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._initializers: list[Initializer] = []

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[Dimension]) -> str:
        """Declare an input; a dimension given by name is free."""
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: type[np.generic], shape: Sequence[Dimension]) -> str:
        """Declare an output; some node must produce it."""
        self._outputs.append(_value_info(name, dtype, shape))
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str],
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node; returns the name of its first output."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self._nodes.append(
            helper.make_node(operator, list(inputs), names, domain=domain, **attributes)
        )
        return names[0]

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """A small constant that is part of the graph."""
        self._initializers.append(
            Initializer(name, array.dtype, array.shape, lambda: iter((array,)))
        )
        return name

    def linear(self, x: str, matrix: Matrix, name: str, bias: Float32 | None = None) -> str:
        """`x @ matrix.T + bias` on the last axis of `x`, in the graph's weights format."""
        product = f"{name}.product" if bias is not None else name
        if self._weights == "float32":
            self._float32_product(x, matrix, product)
        else:
            self._integer_product(x, matrix, product, _BITS[self._weights])
        if bias is not None:
            self.node("Add", [product, self.constant(f"{name}.bias", bias)], name)
        return name

    def save(self, folder: Path, inline_limit_bytes: int = INLINE_LIMIT_BYTES) -> list[str]:
        """Write the graph into `folder`; returns the names of the files written."""
        graph = helper.make_graph(self._nodes, self._graph.value, self._inputs, self._outputs)
        path = folder / graph_file(self._graph, self._weights)
        return write_model(path, graph, self._initializers, inline_limit_bytes)

    def _float32_product(self, x: str, matrix: Matrix, product: str) -> None:
        weight = f"{product}.weight"
        if self._names_places and matrix.places:
            weight = self._put_together(matrix, weight)
        else:
            shape = (matrix.num_rows, matrix.num_columns)
            self._initializers.append(
                Initializer(weight, np.dtype(np.float32), shape, matrix.pieces)
            )
        # Unlike MatMul it takes the checkpoint's own layout [N, K].
        self.node("FusedMatMul", [x, weight], product, MICROSOFT, transB=1)

    def _put_together(self, matrix: Matrix, weight: str) -> str:
        """A matrix from where its rows lie; the name of what is then the whole in float32."""
        parts = []
        for index, place in enumerate(matrix.places):
            part, shape = f"{weight}.{index}", (place.num_rows, matrix.num_columns)
            self._initializers.append(Initializer(part, place.dtype, shape, matrix.pieces, place))
            if place.dtype != np.float32:
                part = self.node("Cast", [part], f"{part}.float32", to=TensorProto.FLOAT)
            parts.append(part)
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, weight, axis=0)

    def _integer_product(self, x: str, matrix: Matrix, product: str, bits: int) -> None:
        blocks = num_blocks(matrix.num_columns)

        def integers() -> Iterator[NDArray[Any]]:
            return (quantise(piece, bits) for piece in matrix.pieces())

        def scales() -> Iterator[NDArray[Any]]:
            return (block_scales(piece, bits) for piece in matrix.pieces())

        weight, scale = f"{product}.weight", f"{product}.scale"
        packed_shape = (matrix.num_rows, blocks, BLOCK * bits // 8)
        self._initializers += [
            Initializer(weight, np.dtype(np.uint8), packed_shape, integers),
            Initializer(scale, np.dtype(np.float32), (matrix.num_rows, blocks), scales),
        ]
        self.node(
            "MatMulNBits",
            [x, weight, scale],
            product,
            MICROSOFT,
            N=matrix.num_rows,
            K=matrix.num_columns,
            bits=bits,
            block_size=BLOCK,
            accuracy_level=_INT8_ACTIVATIONS,
        )


def _value_info(name: str, dtype: type[np.generic], shape: Sequence[Dimension]) -> Any:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, element, list(shape))
