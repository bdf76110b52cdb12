"""What drafts with a bundle that brings an adapter."""

from pathlib import Path

import msgspec
import pytest

from adapters.install import install_adapter
from adapters.storage import Kind, TrainingFigures, load_card, write_card
from device_runtime.config import DeviceConfig
from device_runtime.drafting.choice import drafter_names
from device_runtime.engines.bundle_adapter import drafter_reason
from device_runtime.engines.loading import load_engine
from submodels.bundle.bundle import load_bundle
from tests.support.adapter_models import make_bundles
from tests.support.stored_adapters import FIGURES, store_random_adapter

UNKNOWN = FIGURES
WORSE = msgspec.structs.replace(
    FIGURES,
    stopped_tokens_per_round=1.25,
    speed=1.01,
    ngram_tokens_per_round=1.5,
    ngram_speed=1.4,
)


def device_with(tmp_path: Path, figures: TrainingFigures) -> Path:
    device = make_bundles(tmp_path)[0]
    folder = tmp_path / "adapter"
    store_random_adapter(folder, load_bundle(device, "device").manifest, "layer")
    write_card(folder, msgspec.structs.replace(load_card(folder), training=figures))
    install_adapter(device, folder)
    return device


@pytest.mark.parametrize(
    ("figures", "drafter", "chosen"),
    [
        (UNKNOWN, "auto", ("adapter", "suffix")),
        (WORSE, "auto", ("adapter", "suffix")),
        (WORSE, "adapter", ("adapter",)),
        (UNKNOWN, "suffix", ("suffix",)),
        (UNKNOWN, "ngram", ("ngram",)),
        (UNKNOWN, "none", ()),
    ],
)
def test_auto_takes_all_that_there_is_and_leaves_the_choice_to_what_is_measured(
    tmp_path: Path, figures: TrainingFigures, drafter: str, chosen: tuple[str, ...]
) -> None:
    device = device_with(tmp_path, figures)
    config = DeviceConfig(bundle=device, engine="torch", threads=1, drafter=drafter)  # type: ignore[arg-type]
    assert drafter_names(config, load_engine(config).draft_limits) == chosen


def test_the_figures_of_an_adapter_are_named_where_they_are_known(tmp_path: Path) -> None:
    bundle = load_bundle(device_with(tmp_path, WORSE), "device")
    reason = " (tokens per round when trained: adapter 1.25, ngram 1.50)"
    assert drafter_reason(bundle) == reason


def test_nothing_is_said_of_an_older_adapter_or_of_none(tmp_path: Path) -> None:
    without = load_bundle(make_bundles(tmp_path)[0], "device")
    assert drafter_reason(without) == ""
    assert drafter_reason(load_bundle(device_with(tmp_path, UNKNOWN), "device")) == ""


def test_a_card_without_the_newer_figures_is_read(tmp_path: Path) -> None:
    device = device_with(tmp_path, UNKNOWN)
    plain = msgspec.json.decode((device / "adapter.json").read_bytes())
    for name in ("ended", "num_prompts", "speed", "ngram_tokens_per_round", "ngram_speed"):
        del plain["training"][name]
    (device / "adapter.json").write_bytes(msgspec.json.encode(plain))
    assert load_card(device).training == UNKNOWN


@pytest.mark.parametrize(("kind", "pass_tokens"), [("fed", 1), ("block", 6)])
def test_a_block_adapter_says_how_many_tokens_a_pass_drafts(
    tmp_path: Path, kind: Kind, pass_tokens: int
) -> None:
    device = make_bundles(tmp_path)[0]
    store_random_adapter(tmp_path / "adapter", load_bundle(device, "device").manifest, kind)
    install_adapter(device, tmp_path / "adapter")
    limits = load_engine(DeviceConfig(bundle=device, engine="torch", threads=1)).draft_limits
    assert limits is not None
    assert (limits.max_tokens, limits.pass_tokens) == (6, pass_tokens)
