"""Loading the engine that a configuration names; only its own libraries are imported."""

from device_runtime.config import DeviceConfig
from device_runtime.engine import DeviceEngine
from submodels.errors import BundleError

_EXTRAS = {"onnx": "device", "torch": "cloud"}


class EngineLoadError(Exception):
    """The engine cannot run as configured here; the message says what to change."""


def load_engine(config: DeviceConfig) -> DeviceEngine:
    """The device engine of `config.bundle`.

    Raises:
        EngineLoadError: its library is not installed, or a setting does not fit the model.
        BundleError: no usable device bundle, or one split without the chosen weights.
    """
    try:
        return _load(config)
    except ImportError as error:
        raise EngineLoadError(
            f"engine {config.engine}: cannot import {error.name or error}; install "
            f"hat-serving[{_EXTRAS[config.engine]}], or choose another engine"
        ) from error
    except BundleError:
        raise
    except ValueError as error:
        raise EngineLoadError(str(error)) from error


def _load(config: DeviceConfig) -> DeviceEngine:
    if config.engine == "torch":
        from device_runtime.torch_engine import load_torch_engine

        return load_torch_engine(config.bundle, config.threads, config.max_model_len)
    from device_runtime.onnx_engine import load_onnx_engine

    return load_onnx_engine(config.bundle, config.weights, config.threads, config.max_model_len)
