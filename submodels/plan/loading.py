"""Reading a config.json by transformers' own class for it."""

import copy
from collections.abc import Mapping
from typing import Any

from submodels.errors import UnsupportedModelError


def loaded_config(class_name: str, config: Mapping[str, Any]) -> Any:
    """The configuration object that transformers makes of a config.json.

    Raises:
        UnsupportedModelError: transformers refuses it, or is too old to know the model.
    """
    import transformers

    config_class = getattr(transformers, class_name, None)
    if config_class is None:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} has no {class_name}: a newer one is needed "
            "for this model"
        )
    # A copy, since transformers writes its defaults into nested values of what it is given.
    try:
        return config_class.from_dict(copy.deepcopy(dict(config)))
    # Configuration classes validate with several libraries, each with its own exceptions.
    except Exception as error:
        # transformers writes several lines.
        reason = " ".join(str(error).split())
        raise UnsupportedModelError(f"config.json is not a valid one: {reason}") from error
