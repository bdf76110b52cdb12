"""Loading the engine that a configuration names; only its own libraries are imported."""

from device_runtime.config import DeviceConfig
from device_runtime.engines.engine import DeviceEngine
from process.errors import StartError

_EXTRAS = {"onnx": "device", "torch": "cloud"}


def load_engine(config: DeviceConfig) -> DeviceEngine:
    """The device engine of `config.bundle`.

    Raises:
        StartError: its library is not installed, or a setting does not fit the model.
        BundleError: no usable device bundle, or one split without the chosen weights.
    """
    try:
        return _checked(_load(config), config)
    except ImportError as error:
        raise StartError(
            f"engine {config.engine}: cannot import {error.name or error}; install "
            f"hat-serving[{_EXTRAS[config.engine]}], or choose another engine"
        ) from error
    except ValueError as error:
        raise StartError(str(error)) from error


def _checked(engine: DeviceEngine, config: DeviceConfig) -> DeviceEngine:
    if config.drafter == "adapter" and engine.draft_limits is None:
        weights = f" with {config.draft_weights} weights" if config.engine == "onnx" else ""
        raise StartError(
            f"drafter adapter: {config.bundle} holds no adapter{weights}; train one with "
            "`hat adapter train`, or choose another drafter"
        )
    return engine


def _load(config: DeviceConfig) -> DeviceEngine:
    may_draft = config.drafter in ("adapter", "auto")
    if config.engine == "torch":
        from device_runtime.engines.torch_engine import load_torch_engine

        return load_torch_engine(config.bundle, config.threads, config.max_model_len, may_draft)
    from device_runtime.engines.onnx_engine import load_onnx_engine

    draft_weights = config.draft_weights if may_draft else None
    return load_onnx_engine(
        config.bundle, config.weights, config.threads, config.max_model_len, draft_weights
    )
