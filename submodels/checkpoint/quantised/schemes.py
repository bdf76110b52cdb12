"""compressed-tensors: which of its groups a module belongs to, and what a group says of weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from submodels.checkpoint.quantised.settings import expect, refuse_unknown
from submodels.errors import UnsupportedModelError
from submodels.plan.wrappers import text_name

METHOD = "quant_method 'compressed-tensors'"
_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
_KNOWN = frozenset(
    {
        *("quant_method", "config_groups", "format", "ignore", "quantization_status", "version"),
        *("global_compression_ratio", "kv_cache_scheme", "run_compressed", "sparsity_config"),
    }
)
_KNOWN_OF_GROUP = frozenset(
    {"targets", "weights", "input_activations", "output_activations", "format"}
)
_KNOWN_OF_WEIGHTS = frozenset(
    {
        *("num_bits", "type", "symmetric", "strategy", "group_size", "block_structure"),
        *("actorder", "observer", "observer_kwargs", "scale_dtype", "zp_dtype"),
    }
)
_REGEX = "re:"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of a group of modules are stored."""

    targets: tuple[str, ...]
    format: str
    bits: int
    kind: Literal["int", "float"]
    is_symmetric: bool
    size: tuple[int, int]
    """Rows and columns of a block; a number that is 0 stands for all of them."""
    is_ordered: bool
    """Which group a column belongs to has to be stored."""

    def grid(self, shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """How many scales a matrix has, and how many rows and columns share one."""
        height, width = (
            min(size or whole, whole) for size, whole in zip(self.size, shape, strict=True)
        )
        return (-(-shape[0] // height), -(-shape[1] // width)), (height, width)


def read_schemes(settings: Mapping[str, Any]) -> tuple[Scheme, ...]:
    """The groups of a configuration that say something of weights.

    Raises:
        UnsupportedModelError: a format or setting that is refused by name.
    """
    refuse_unknown(settings, _KNOWN, METHOD)
    sparsity = settings.get("sparsity_config") or {}
    if not isinstance(sparsity, Mapping):
        raise UnsupportedModelError(f"{METHOD}: sparsity_config is no JSON object")
    expect(sparsity, "format", f"{METHOD}: sparsity_config", "dense")
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise UnsupportedModelError(f"{METHOD}: expected config_groups, got {groups!r:.60}")
    found = [_scheme(f"{METHOD}: {n}", g, settings.get("format")) for n, g in groups.items()]
    return tuple(scheme for scheme in found if scheme is not None)


def scheme_of(module: str, schemes: Sequence[Scheme]) -> Scheme:
    """The group that a module belongs to: by its name, a pattern of names, or its class.

    Raises:
        UnsupportedModelError: none, or several that differ.
    """
    names = {module, (text_name(f"{module}.weight") or "").removesuffix(".weight")}
    kind = "Embedding" if module.endswith("embed_tokens") else "Linear"

    def exact(target: str) -> bool:
        return target in names

    def by_pattern(target: str) -> bool:
        pattern = target.removeprefix(_REGEX)
        return pattern != target and any(re.match(pattern, name) for name in names)

    def by_class(target: str) -> bool:
        return target == kind

    for fits in (exact, by_pattern, by_class):
        found = [scheme for scheme in schemes if any(map(fits, scheme.targets))]
        if found:
            if len({replace(scheme, targets=()) for scheme in found}) > 1:
                raise UnsupportedModelError(f"{METHOD}: {module} belongs to groups that differ")
            return found[0]
    raise UnsupportedModelError(f"{METHOD}: {module} is quantised, and belongs to no group")


def _scheme(where: str, group: object, common_format: object) -> Scheme | None:
    if not isinstance(group, Mapping):
        raise UnsupportedModelError(f"{where} is not supported: it is {group!r:.60}")
    refuse_unknown(group, _KNOWN_OF_GROUP, METHOD, where)
    weights, targets = group.get("weights"), group.get("targets")
    if weights is None:
        return None
    if not isinstance(weights, Mapping) or not isinstance(targets, list):
        raise UnsupportedModelError(f"{where}: expected targets and weights")
    for target in targets:
        _check_pattern(where, target)
    refuse_unknown(weights, _KNOWN_OF_WEIGHTS, METHOD, where)
    told = {"format": group.get("format") or common_format}
    name = expect(told, "format", METHOD, *_FORMATS) if told["format"] else None
    if name is None:
        raise UnsupportedModelError(f"{where}: expected a format, one of {', '.join(_FORMATS)}")
    size = _block_size(where, weights)
    bits = expect(weights, "num_bits", METHOD, 8, 4)
    kind = expect(weights, "type", METHOD, "int", "float")
    if bits != 8 and (name != "pack-quantized" or kind == "float"):
        raise UnsupportedModelError(f"{where}: {bits} bits of {kind} as {name} are not supported")
    if name == "pack-quantized" and kind == "float":
        raise UnsupportedModelError(f"{where}: floats as {name} are not supported")
    is_symmetric = expect(weights, "symmetric", METHOD, True, False)
    return Scheme(
        tuple(map(str, targets)), name, bits, kind, is_symmetric, size, _is_ordered(weights)
    )


def _check_pattern(where: str, target: object) -> None:
    try:
        re.compile(str(target).removeprefix(_REGEX))
    except re.error as error:
        raise UnsupportedModelError(f"{where}: {target!r:.60} is no pattern: {error}") from error


def _is_ordered(weights: Mapping[str, Any]) -> bool:
    known = ("weight", "static", "group", "dynamic", False, True)
    return expect(weights, "actorder", METHOD, *known) in ("group", "dynamic", True)


def _block_size(where: str, weights: Mapping[str, Any]) -> tuple[int, int]:
    """What shares a scale, by the strategy, which the package infers where it is not said."""
    size = weights.get("group_size")
    default = "tensor" if size is None else "channel" if size == -1 else "group"
    named = {"strategy": weights.get("strategy") or default}
    strategy = expect(named, "strategy", METHOD, "tensor", "channel", "group", "block")
    if strategy == "tensor":
        return 0, 0
    if strategy == "channel":
        return 1, 0
    block = [1, size] if strategy == "group" else weights.get("block_structure")
    if isinstance(block, list) and len(block) == 2:
        height, width = block
        if type(height) is type(width) is int and min(height, width) > 0:
            return height, width
    raise UnsupportedModelError(f"{where}: expected the size of a {strategy}, got {block!r:.60}")
