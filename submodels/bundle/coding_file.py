"""`coding.json` in a cloud bundle: what a split has measured for the link's codecs. No torch."""

from pathlib import Path
from typing import Final

import msgspec

from process.errors import shown
from submodels.bundle.bundle import Bundle
from submodels.errors import BundleError
from wire.coding.tables import MAX_SCALE

CODING_FILE: Final = "coding.json"


class ChannelScales(msgspec.Struct, frozen=True, kw_only=True):
    """How large numbers usually are, as powers of two: one for each channel of the hidden states.

    `up` are rows of the input submodel, `down` rows of the middle one; empty where nothing is
    known. A program that reads the file skips fields that it does not know.
    """

    up: tuple[float, ...] = ()
    down: tuple[float, ...] = ()
    up_largest: tuple[int, ...] = ()
    """Channels that stand out, the largest first; none where the hidden states are rotated."""
    down_largest: tuple[int, ...] = ()


def write_channel_scales(cloud: Path, scales: ChannelScales) -> None:
    """Put the file into the folder of a cloud bundle that is being made."""
    (cloud / CODING_FILE).write_bytes(msgspec.json.encode(scales) + b"\n")


def read_channel_scales(bundle: Bundle) -> ChannelScales:
    """What a cloud bundle says; of one that was split before there was such a file, nothing.

    Raises:
        BundleError: the file holds something else.
    """
    path = bundle.path / CODING_FILE
    try:
        scales = msgspec.convert(bundle.files.json(CODING_FILE), ChannelScales)
    except msgspec.ValidationError as error:
        raise BundleError(f"{path} is not valid: {shown(error)}") from error
    for each in (scales.up, scales.down):
        if len(each) not in (0, bundle.manifest.shape.hidden_size):
            expected = bundle.manifest.shape.hidden_size
            raise BundleError(f"{path}: expected {expected} channels, got {len(each)}")
        if any(not abs(scale) <= MAX_SCALE for scale in each):
            raise BundleError(f"{path}: expected scales within {MAX_SCALE:g} either way")
    for channels in (scales.up_largest, scales.down_largest):
        known = range(bundle.manifest.shape.hidden_size)
        if len(set(channels)) < len(channels) or any(each not in known for each in channels):
            raise BundleError(f"{path}: expected different channels below {known.stop}")
    return scales
