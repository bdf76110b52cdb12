"""The middle's tensors as another tool has quantised them, for an engine that reads them so."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from submodels.checkpoint.checkpoint import CONFIG_FILE, SourceTensor, open_checkpoint, read_json
from submodels.checkpoint.quantised.settings import quantisation_of
from submodels.checkpoint.text_part import text_part
from submodels.errors import UnsupportedModelError
from submodels.manifest import BundleFile
from submodels.plan.wrappers import text_name
from submodels.tensors.safetensors_writer import SafetensorsWriter, TensorToWrite

KEPT = ("fp8", "awq", "gptq", "compressed-tensors")
"""Methods whose tensors have a layer's own names with other ends, which vLLM's classes read."""

_VLLM_SCALES: Mapping[str, str] = MappingProxyType(
    {".activation_scale": ".input_scale", ".weight_scale_inv": ".weight_scale"}
)
"""Of fp8 with one scale for a matrix, as transformers and Mistral store it: names in vLLM's layers.

Source: `hf_to_vllm_mapper` of vLLM's mistral3, which no other class of it has.
"""

_LAYER = re.compile(r"(?:^|.*\.)layers\.(\d+)(?=\.|$)")
_NUMBERED_PATTERN = re.compile(r"^(re|[-+]):.*layers\W*\d")


@dataclass(frozen=True, slots=True)
class KeptMiddle:
    """What a cloud bundle has instead of plain layers.

    `settings` are the checkpoint's `quantization_config`, `tensors` go by their names in the
    bundle; in both, layers are renumbered from 0.
    """

    method: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]


def kept_middle(folder: Path, middle: range, changes: Sequence[str] = ()) -> KeptMiddle:
    """The quantised tensors of these layers, as they are.

    `changes` are flags that were given and would make other weights of them.

    Raises:
        UnsupportedModelError: the model is not quantised, or not so that they can be kept, or
            something is to change them.
        CheckpointError: files that are missing, cut short, or corrupt.
    """
    if changes:
        raise UnsupportedModelError(f"--keep-quantisation does not go with {changes[0]}")
    settings = quantisation_of(folder) if folder.is_dir() else None
    method = settings["quant_method"] if settings is not None else "nothing"
    if settings is None or method not in KEPT:
        raise UnsupportedModelError(
            f"--keep-quantisation: expected a checkpoint quantised by {', '.join(KEPT)}; "
            f"{folder} is by {method}"
        )
    _, checkpoint = text_part(read_json(folder / CONFIG_FILE), open_checkpoint(folder))
    renamed = {_renamed(name, middle): tensor for name, tensor in checkpoint.tensors.items()}
    scales = _VLLM_SCALES if method == "fp8" and not settings.get("weight_block_size") else {}
    tensors = {
        _with_end(name, scales): tensor for name, tensor in renamed.items() if name is not None
    }
    return KeptMiddle(method, _renumbered(dict(settings), middle), tensors)


def _renamed(name: str, middle: range) -> str | None:
    """A tensor's or a module's name in the bundle; None where its layer is not in the middle."""
    found = _LAYER.match(name)
    if found is None or int(found[1]) not in middle:
        return None
    return f"model.layers.{int(found[1]) - middle.start}{name[found.end() :]}"


def _with_end(name: str, ends: Mapping[str, str]) -> str:
    for end, instead in ends.items():
        if name.endswith(end):
            return name.removesuffix(end) + instead
    return name


def _renumbered(value: Any, middle: range) -> Any:
    """Settings that name modules, such as those left as they are, by their names in the bundle."""
    if isinstance(value, dict):
        for key in value:
            _refuse_numbered(key)
        return {key: _renumbered(each, middle) for key, each in value.items()}
    if not isinstance(value, list):
        return value
    kept = []
    for each in value:
        _refuse_numbered(each)
        if isinstance(each, str) and _LAYER.match(each):
            # Layers of what sees pictures have numbers of their own.
            name = None if text_name(each) is None else _renamed(each, middle)
            kept += [] if name is None else [name]
        else:
            kept.append(_renumbered(each, middle))
    return kept


def _refuse_numbered(told: object) -> None:
    if isinstance(told, str) and _NUMBERED_PATTERN.match(told):
        raise UnsupportedModelError(
            f"--keep-quantisation: quantization_config names layers by a pattern, {told!r:.80},"
            " and they have other numbers in the bundle"
        )


def write_kept(path: Path, kept: KeptMiddle) -> BundleFile:
    """Put the kept tensors in the place of a file of plain ones; its size and hash.

    Raises:
        CheckpointError: a file of the checkpoint ends early.
    """
    ordered = sorted(kept.tensors.items(), key=lambda item: (-_item_bytes(item[1]), item[0]))
    announced = [TensorToWrite(name, t.dtype, t.shape, t.num_bytes) for name, t in ordered]
    path.unlink()
    with SafetensorsWriter(path, announced) as writer:
        for name, tensor in ordered:
            for piece in tensor.pieces():
                writer.write(name, piece)
        return writer.finish()


def _item_bytes(tensor: SourceTensor) -> int:
    return tensor.num_bytes // max(1, prod(tensor.shape))
