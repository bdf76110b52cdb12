"""Loading the engine that a configuration names; only its own libraries are imported."""

from device_runtime.config import DeviceConfig
from device_runtime.engines.engine import DeviceEngine
from process.errors import StartError
from process.world import Clock

_EXTRAS = {"onnx": "device", "torch": "cloud"}


def load_engine(config: DeviceConfig, clock: Clock | None = None) -> DeviceEngine:
    """The device engine of `config.bundle_path`; by the clock `onnx_provider` auto compares times.

    Raises:
        StartError: its library is not installed, or a setting does not fit the model.
        BundleError: no usable device bundle, or one split without the chosen weights.
    """
    try:
        return _checked(_load(config, clock), config)
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
            f"drafter adapter: {config.bundle_path} holds no adapter{weights}; train one with "
            "`hat adapter train`, or choose another drafter"
        )
    if config.when_cloud_gone == "draft":
        _check_stands_alone(engine, config)
    return engine


def _check_stands_alone(engine: DeviceEngine, config: DeviceConfig) -> None:
    """Return if there is a draft model that can answer by itself.

    Raises:
        StartError: there is none; guesses out of texts (suffix, ngram) are no model.
    """
    what = "when_cloud_gone draft: expected a draft model on this device"
    if config.drafter not in ("adapter", "auto"):
        advice = "choose drafter adapter or auto"
        raise StartError(f"{what}, and drafter {config.drafter} loads none; {advice}")
    if engine.draft_limits is None:
        weights = f" with {config.draft_weights} weights" if config.engine == "onnx" else ""
        advice = "train one with `hat adapter train`"
        raise StartError(f"{what}, and {config.bundle} holds no adapter{weights}; {advice}")
    if not engine.draft_limits.may_stand_alone:
        advice = "adapters of kind attention, layer and fed can answer alone"
        why = f"the adapter of {config.bundle} drafts behind rows of the cloud's"
        raise StartError(f"{what}, and {why}; {advice}")


def _load(config: DeviceConfig, clock: Clock | None) -> DeviceEngine:
    may_draft = config.drafter in ("adapter", "auto")
    if config.engine == "torch":
        if config.onnx_provider not in ("cpu", "auto"):
            raise StartError(
                f"onnx_provider {config.onnx_provider}: expected engine onnx, got torch"
            )
        from device_runtime.engines.torch_engine import load_torch_engine

        return load_torch_engine(
            config.bundle_path, config.threads, config.max_model_len, may_draft
        )
    from device_runtime.engines.onnx_choice import Wanted
    from device_runtime.engines.onnx_engine import load_onnx_engine

    draft_weights = config.draft_weights if may_draft else None
    has_integers = config.weights != "float32"
    provider = Wanted(config.onnx_provider, _options(config), has_integers, clock)
    return load_onnx_engine(
        config.bundle_path,
        config.weights,
        config.threads,
        config.max_model_len,
        draft_weights,
        provider,
    )


def _options(config: DeviceConfig) -> tuple[tuple[str, str], ...]:
    """Those of the execution provider.

    Raises:
        StartError: not one name and one value each, or of no provider that was named.
    """
    given = config.onnx_provider_options
    if given and config.onnx_provider in ("cpu", "auto"):
        raise StartError(
            "onnx_provider_options: expected the name of a provider that they are of, got "
            f"onnx_provider {config.onnx_provider}"
        )
    options = []
    for option in given:
        name, is_there, value = option.partition("=")
        if not (name.strip() and is_there):
            raise StartError(f"onnx_provider_options: expected NAME=VALUE, got {option!r}")
        options.append((name.strip(), value.strip()))
    return tuple(options)
