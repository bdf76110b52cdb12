"""The whole model put together again from its two bundles: the teacher, and the judge of drafts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.fingerprint import middle_fingerprint_of
from submodels.bundle.layer_weights import Placed, load_embedding
from submodels.bundle.layers import (
    DecoderLayer,
    Head,
    LayerCache,
    embed,
    load_head,
    load_layers,
    norm_of,
    run_layers,
)
from submodels.errors import BundleError
from submodels.manifest import Manifest
from submodels.tensors.tensor_layout import Part


@dataclass(frozen=True, slots=True)
class States:
    """What flows between the parts, each `[T, H]`.

    `shallow` leaves the input submodel, `deep` enters the output submodel, `top` enters its
    final norm (the same as `deep` when the device has no output layers).
    """

    shallow: Tensor
    deep: Tensor
    top: Tensor


@dataclass(frozen=True, slots=True)
class WholeModel:
    """Input, middle and output submodels in one place. Its weights never change."""

    device_bundle: Bundle
    embedding: Tensor
    input_layers: Sequence[DecoderLayer]
    middle_layers: Sequence[DecoderLayer]
    output_layers: Sequence[DecoderLayer]
    head: Head

    @property
    def manifest(self) -> Manifest:
        """The device bundle's."""
        return self.device_bundle.manifest

    def sequence(self) -> "WholeSequence":
        """An empty sequence."""
        return WholeSequence(self)

    def final(self, top: Tensor) -> Tensor:
        """Top rows of any leading shape, after the final norm."""
        return norm_of(self.manifest.shape)(top, self.head.norm, self.head.eps)


class WholeSequence:
    """One sequence through the whole model, with the caches of all layers."""

    def __init__(self, model: WholeModel) -> None:
        self._model = model
        self.input_caches = [LayerCache() for _ in model.input_layers]
        self.middle_caches = [LayerCache() for _ in model.middle_layers]
        self.output_caches = [LayerCache() for _ in model.output_layers]

    def extend(self, token_ids: Sequence[int], position: int) -> States:
        """States of tokens at `[position, position + T)`; what was cached from there is forgotten.

        Raises:
            ValueError: a position beyond what the sequence holds.
        """
        model = self._model
        shallow = run_layers(
            model.input_layers, embed(model.embedding, token_ids), position, self.input_caches
        )
        deep = run_layers(model.middle_layers, shallow, position, self.middle_caches)
        top = run_layers(model.output_layers, deep, position, self.output_caches)
        return States(shallow, deep, top)


def load_whole_model(device_path: Path, cloud_path: Path, placed: Placed) -> WholeModel:
    """The model that two bundles were split from.

    Raises:
        BundleError: a bundle is missing or corrupt, or the device's is for another middle.
    """
    device, cloud = load_bundle(device_path, "device"), load_bundle(cloud_path, "cloud")
    if _split(device) != _split(cloud):
        raise BundleError(
            f"{device.path} and {cloud.path} are not of one split: the middle's fingerprint, input "
            f"and output layers are {_split(device)} and {_split(cloud)}"
        )
    with torch.no_grad():
        return WholeModel(
            device_bundle=device,
            embedding=load_embedding(device, placed),
            input_layers=load_layers(device, Part.INPUT, placed),
            middle_layers=load_layers(cloud, Part.MIDDLE, placed),
            output_layers=load_layers(device, Part.OUTPUT, placed),
            head=load_head(device, placed),
        )


def _split(bundle: Bundle) -> tuple[str, int, int]:
    manifest = bundle.manifest
    fingerprint = middle_fingerprint_of(manifest)
    return fingerprint, manifest.num_input_layers, manifest.num_output_layers
