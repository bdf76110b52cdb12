"""What `transformers` itself makes of a checkpoint that another tool has quantised."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submodels.checkpoint.quantised.settings import quantisation_of

_BY_SETTING = ("fp8", "mxfp4", "compressed-tensors")
_BY_CALL = ("bitsandbytes",)
_PARTS = ("scale", "scale_inv", "weight_g_idx", "zero_point")
"""Ends of names that say something of a weight."""
_OF_ACTIVATIONS = ("input_scale", "output_scale", "activation_scale", "k_scale", "v_scale")


def is_quantised(place: Mapping[str, Any], config: Any) -> bool:
    """Whether a checkpoint's folder says how it was quantised.

    Raises:
        ValueError: in a file that transformers does not read, so that it would make weights up.
    """
    if getattr(config, "quantization_config", None):
        return True
    folder = Path(place["pretrained_model_name_or_path"])
    told = None if "gguf_file" in place else quantisation_of(folder)
    if told is not None:
        raise ValueError(f"it does not know of {told['quant_method']!r} outside config.json")
    return False


def dequantised_model(classes: Any, place: Mapping[str, Any], config: Any) -> Any:
    """The model with plain numbers, in the format that the checkpoint names, as a split has them.

    Raises:
        OSError, ValueError, NotImplementedError: transformers cannot load it, does not dequantise
            it, or would leave out what it does not know.
    """
    told: dict[str, Any] = dict(config.quantization_config)
    method = told.get("quant_method")
    if method not in (*_BY_SETTING, *_BY_CALL):
        raise ValueError(f"it does not dequantise quant_method {method!r}")
    if method in _BY_SETTING:
        config.quantization_config = {**told, "dequantize": True}
    try:
        model, found = classes.from_pretrained(
            **place, config=config, dtype="auto", output_loading_info=True
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    for name in sorted(found["unexpected_keys"]):
        if name.endswith(_PARTS) and not name.endswith(_OF_ACTIVATIONS):
            raise ValueError(f"it leaves out {name}, and a weight would be another one")
    if method in _BY_CALL:
        model = model.dequantize()
    if _still_rounds(model):
        raise ValueError(f"this version of it does not dequantise quant_method {method!r}")
    return model


def _still_rounds(model: Any) -> bool:
    """Whether weights are as stored, or activations are rounded, as older versions leave them."""
    is_stored = getattr(model.config, "quantization_config", None) is not None
    return is_stored or any(hasattr(part, "quantization_scheme") for part in model.modules())
