"""What a checkpoint says of its quantisation, and refusing what is not known by name."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from submodels.checkpoint.checkpoint import CONFIG_FILE, read_json
from submodels.errors import UnsupportedModelError
from submodels.tensors.number_format import SAFETENSORS_NAMES

_KEY = "quantization_config"
# Older tools wrote a file of their own beside a config.json that says nothing.
_OWN_FILES: Mapping[str, str] = MappingProxyType(
    {"quantize_config.json": "gptq", "quant_config.json": "awq"}
)
_OLD_NAMES: Mapping[str, str] = MappingProxyType({"w_bit": "bits", "q_group_size": "group_size"})
"""What AutoAWQ's own file calls them."""


def quantisation_of(folder: Path) -> Mapping[str, Any] | None:
    """The settings of a checkpoint's quantisation, `quant_method` among them; None: it has none.

    Raises:
        CheckpointError: a file that is no JSON object.
        UnsupportedModelError: settings that are no JSON object, or name no method.
    """
    config = read_json(folder / CONFIG_FILE)
    text = config.get("text_config")
    told = config.get(_KEY) or (text.get(_KEY) if isinstance(text, dict) else None)
    if told:
        if not isinstance(told, dict) or not isinstance(told.get("quant_method"), str):
            raise UnsupportedModelError(
                f"{folder / CONFIG_FILE}: expected a {_KEY} with a quant_method, got {told!r:.80}"
            )
        return told
    for name, method in _OWN_FILES.items():
        if (folder / name).is_file():
            old = read_json(folder / name)
            named = old.get("quant_method")
            settings = {_OLD_NAMES.get(key, key): value for key, value in old.items()}
            return settings | {"quant_method": named if isinstance(named, str) else method}
    return None


def number_format(folder: Path) -> str | None:
    """The format (safetensors name) of a checkpoint's numbers by its config.json; None: not said.

    Raises:
        UnsupportedModelError: a format that bundles cannot have.
    """
    config = read_json(folder / CONFIG_FILE)
    text = config.get("text_config")
    for told in (text if isinstance(text, dict) else {}, config):
        came = told.get("dtype") or told.get("torch_dtype")
        if came is not None:
            names: Mapping[str, str] = {
                str(name): short for name, short in SAFETENSORS_NAMES.items()
            }
            name = str(came).removeprefix("torch.")
            if name not in names:
                raise UnsupportedModelError(
                    f"{folder / CONFIG_FILE}: dtype {came!r} is not supported; supported: "
                    f"{', '.join(SAFETENSORS_NAMES)}"
                )
            return names[name]
    return None


def refuse_unknown(
    settings: Mapping[str, Any], known: Collection[str], method: str, where: str = _KEY
) -> None:
    """Return if all that is set is known: absent and off are the same, also of what is yet to come.

    Raises:
        UnsupportedModelError: a setting that could mean other numbers, named.
    """
    for key, value in settings.items():
        if key not in known and value not in (None, False, [], {}, ""):
            raise UnsupportedModelError(
                f"{method}: {key} in {where} is not known here (it is {value!r:.60}): split the "
                "unquantised model, or a GGUF file of it"
            )


def expect(settings: Mapping[str, Any], key: str, method: str, *allowed: Any) -> Any:
    """The value of a setting, the first of `allowed` where it is absent or null.

    Raises:
        UnsupportedModelError: another value, named.
    """
    value = settings.get(key)
    if value is None:
        return allowed[0]
    for known in allowed:
        if value == known and isinstance(value, bool) == isinstance(known, bool):
            return known
    raise UnsupportedModelError(
        f"{method}: {key} {value!r:.60} is not supported; supported: "
        f"{', '.join(map(repr, allowed))}"
    )


def group_size_of(settings: Mapping[str, Any], method: str) -> int:
    """How many inputs share a scale; -1: all of them.

    Raises:
        UnsupportedModelError: no such number.
    """
    size = settings.get("group_size", 128)
    if not isinstance(size, int) or isinstance(size, bool) or (size < 1 and size != -1):
        raise UnsupportedModelError(
            f"{method}: group_size: expected a whole number of 1 or more, or -1, got {size!r:.60}"
        )
    return size
