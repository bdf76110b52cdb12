"""ONNX Runtime's sessions: on the CPU, or on an execution provider with the CPU behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import onnxruntime

from submodels.errors import BundleError


class ProviderError(ValueError):
    """An execution provider cannot be used; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Where ONNX Runtime may compute.

    Source: "Execution Providers" in the documentation of ONNX Runtime, which has the options.
    """

    name: str
    """As the setting has it."""
    onnx_name: str
    options: tuple[tuple[str, str], ...] = ()
    """Names and values; of two with one name the later holds."""
    is_automatic: bool = True
    """Whether `auto` tries it."""
    plans_memory: bool = True
    """Whether sessions may plan their memory ahead, which DirectML cannot."""


CPU = Provider("cpu", "CPUExecutionProvider", is_automatic=False)

_PROVIDERS = (
    CPU,
    # By itself it multiplies float32 with the 10 bits of TF32.
    Provider("cuda", "CUDAExecutionProvider", (("use_tf32", "0"),)),
    # Builds an engine for each new number of rows, which takes minutes.
    Provider("tensorrt", "TensorrtExecutionProvider", is_automatic=False),
    Provider("migraphx", "MIGraphXExecutionProvider"),
    # The newer of its two formats of models.
    Provider("coreml", "CoreMLExecutionProvider", (("ModelFormat", "MLProgram"),)),
    Provider("directml", "DmlExecutionProvider", plans_memory=False),
    Provider("openvino", "OpenVINOExecutionProvider"),
    # Takes fixed shapes and quantised graphs; what it does not take is left to the CPU.
    Provider("qnn", "QNNExecutionProvider", is_automatic=False),
    Provider("webgpu", "WebGpuExecutionProvider"),
)

PROVIDERS: Mapping[str, Provider] = MappingProxyType({each.name: each for each in _PROVIDERS})
"""By the names of the setting, in the order in which `auto` tries them."""


def open_session(
    path: Path, threads: int, provider: Provider = CPU
) -> onnxruntime.InferenceSession:
    """A session whose threads sleep, not spin, between runs.

    The CPU takes the nodes that the provider does not.

    Raises:
        BundleError: ONNX Runtime does not accept the file.
        ProviderError: the provider does not, or did not start.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = provider.plans_memory
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chain = dict.fromkeys((provider.onnx_name, CPU.onnx_name))
    ours = [dict(provider.options) if name == provider.onnx_name else {} for name in chain]
    try:
        # By itself it would go on with the CPU alone, and print that on standard output.
        session = onnxruntime.InferenceSession(
            path, options, providers=list(chain), provider_options=ours, enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's own errors have no narrower common ancestor
        if provider is CPU:
            raise BundleError(f"ONNX Runtime cannot load {path}: {error}") from error
        raise ProviderError(f"cannot load {path.name}: {_one_line(error)}") from error
    there = session.get_providers()
    if there[:1] != [provider.onnx_name]:
        raise ProviderError(
            f"ONNX Runtime did not start it, perhaps for want of a library, and took "
            f"{', '.join(there)}"
        )
    return session


def runs_in_place(session: onnxruntime.InferenceSession) -> bool:
    """Whether a bound input is read where it lies at each run.

    Elsewhere it is copied when it is bound, to where the first node that reads it runs.

    Source: `IOBinding::BindInput` of ONNX Runtime.
    """
    return list(session.get_providers()) == [CPU.onnx_name]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
