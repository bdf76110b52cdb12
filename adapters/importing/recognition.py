"""Which kind of drafting head a folder holds, or why it is none that can be imported."""

import re
from collections.abc import Mapping
from typing import Any

from adapters.importing.published import PublishedHead
from adapters.storage import AdapterError, Kind

_LAYER = re.compile(r"(model\.)?layers\.(\d+)\.")
_WANTED = "an EAGLE-1, EAGLE-2 or EAGLE-3 head for the same model"


def kind_of(head: PublishedHead) -> Kind:
    """`eagle` (EAGLE-1 and 2, which have the same network) or `eagle3`.

    Raises:
        AdapterError: something else, named, with what to do about it.
    """
    foreign = _foreign(head)
    if foreign is not None:
        raise AdapterError(f"{head.path} holds {foreign}")
    if "fc.weight" not in head.shapes:
        raise AdapterError(f"{head.path} holds {_without_fc(head)}")
    num_layers = len({match[2] for match in map(_LAYER.match, head.shapes) if match})
    if num_layers != 1:
        raise AdapterError(
            f"{head.path}: expected a head of one decoder layer, got {num_layers}; import "
            f"{_WANTED} that has one"
        )
    rows, columns = _matrix(head, "fc.weight")
    if columns == 2 * rows:
        return "eagle"
    if columns == 3 * rows:
        return "eagle3"
    raise AdapterError(
        f"{head.path}: expected fc.weight of shape [H, 2H] (EAGLE-1 and 2) or [H, 3H] (EAGLE-3), "
        f"got [{rows}, {columns}]; heads for a model of another width, or that read another number "
        "of layers, are not supported"
    )


def _matrix(head: PublishedHead, name: str) -> tuple[int, int]:
    shape = head.shapes[name]
    if len(shape) != 2:
        raise AdapterError(f"{head.path}: expected a matrix {name}, got the shape {list(shape)}")
    return shape[0], shape[1]


def _foreign(head: PublishedHead) -> str | None:
    """What another kind of drafter is called, and what to do instead; None for no other kind."""
    words = _words(head.config)
    names = head.shapes
    block = (
        f"which drafts a block in one pass; hat imports heads that draft token by token: {_WANTED}"
    )
    if "medusa" in words or "medusa_num_heads" in head.config or "0.0.linear.weight" in names:
        return (
            "Medusa heads; hat drafts with Medusa heads that it trained itself "
            "(python -m adapters.training.medusa_training), or import " + _WANTED
        )
    if "mlp_speculator" in words or any("emb.0.weight" in name for name in names):
        return f"an MLP speculator, which has no attention; import {_WANTED}"
    if "peagle" in words or "mask_hidden" in names:
        return f"a P-EAGLE head, {block}"
    for name in ("dflash", "dspark", "domino"):
        if name in words or f"{name}_config" in head.config:
            return f"a {name} drafter, {block}"
    if "mtp" in words or any(name.startswith("mtp.") for name in names):
        return f"an MTP module, made for its own model; import {_WANTED}"
    if "fusion_fc.weight" in names:
        return (
            "an EAGLE head in an older format of speculators; import the head that it was "
            "converted from"
        )
    return None


def _words(config: Mapping[str, Any]) -> str:
    """The places of a config.json where a drafter says what it is, in small letters."""
    keys = ("model_type", "architectures", "speculators_model_type", "spec_decode_type")
    return " ".join(str(config.get(key, "")) for key in keys).lower().replace("-", "")


def _without_fc(head: PublishedHead) -> str:
    num_layers = len({match[2] for match in map(_LAYER.match, head.shapes) if match})
    if num_layers > 1:
        return (
            f"a model of {num_layers} layers, no drafting head; `hat split` takes models, and to "
            f"draft import {_WANTED}"
        )
    some = ", ".join(sorted(head.shapes)[:3]) or "none"
    return f"no head that is known (tensors: {some} ...); import {_WANTED}"
