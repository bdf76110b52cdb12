"""A stand-in for an execution provider with memory of its own, over ONNX Runtime's CPU sessions.

As ONNX Runtime does for such a provider, it copies an input when it is bound and an output when the
run has ended, and never reads the caller's memory in between.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]


class ElsewhereSession:
    """An `onnxruntime.InferenceSession`, on one that `new_session` makes."""

    def __init__(
        self,
        path: Path,
        providers: Sequence[str],
        new_session: Callable[..., Any],
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = new_session(path, options, ["CPUExecutionProvider"])
        self._providers = list(providers)
        self.num_bound = 0
        """Inputs, at all times."""

    def get_providers(self) -> list[str]:
        return self._providers

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def io_binding(self) -> "ElsewhereBinding":
        return ElsewhereBinding(self)

    def run(self, names: list[str] | None, feeds: dict[str, Array]) -> list[Array]:
        names = names or [output.name for output in self._session.get_outputs()]
        outputs: list[Array] = self._session.run(names, feeds)
        return outputs

    def run_with_iobinding(self, binding: "ElsewhereBinding") -> None:
        names = list(binding.outputs)
        for name, array in zip(names, self.run(names, binding.inputs), strict=True):
            binding.outputs[name].update_inplace(np.ascontiguousarray(array))


class ElsewhereBinding:
    """Its `IOBinding`."""

    def __init__(self, session: ElsewhereSession) -> None:
        self._session = session
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, onnxruntime.OrtValue] = {}

    def bind_ortvalue_input(self, name: str, value: onnxruntime.OrtValue) -> None:
        self.inputs[name] = value.numpy().copy()
        self._session.num_bound += 1

    def bind_ortvalue_output(self, name: str, value: onnxruntime.OrtValue) -> None:
        self.outputs[name] = value
