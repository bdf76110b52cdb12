"""config.json of the cloud bundle: the base model's, narrowed to the middle layers.

A vLLM plugin loads it as a model class of its own, `HatMiddle<Base>`, which takes hidden states
in and gives hidden states out.
"""

from collections.abc import Mapping
from typing import Any

from submodels.manifest import DtypeName
from submodels.plan.plan import SourceModel

# The class inherits an embedding and a head that are never used; they are kept this small.
UNUSED_VOCAB_SIZE = 64


def cloud_config(
    config: Mapping[str, Any], model: SourceModel, middle: range, dtype: DtypeName
) -> dict[str, Any]:
    """The configuration of the middle layers `middle` of a model.

    `hat_first_layer` is the number, in the names of the weights file beside it, of the first
    layer to load: 0 here, since a bundle's layers are renumbered. The same class can load a whole
    checkpoint with `hat_first_layer` set to the first middle layer.
    """
    dropped = ("auto_map", "_name_or_path", "quantization_config")
    kept = {key: value for key, value in config.items() if key not in dropped}
    narrowed = {
        **kept,
        "architectures": [f"HatMiddle{model.family.architecture}"],
        "num_hidden_layers": len(middle),
        "hat_first_layer": 0,
        "vocab_size": UNUSED_VOCAB_SIZE,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if model.layer_types is not None:
        layer_types = list(model.layer_types[middle.start : middle.stop])
        narrowed["layer_types"] = layer_types
        if "max_window_layers" in kept:
            narrowed["max_window_layers"] = layer_types.count("full_attention")
        if "use_sliding_window" in kept and "sliding_attention" not in layer_types:
            # vLLM goes by these two, not by the layers' types.
            narrowed |= {"use_sliding_window": False, "sliding_window": None}
    return narrowed
