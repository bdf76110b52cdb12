"""`--drafter auto` takes an adapter only where it is not known to be beaten by prompt lookup."""

from pathlib import Path

import msgspec
import pytest

from adapters.install import install_adapter
from adapters.storage import TrainingFigures, load_card, write_card
from device_runtime.config import DeviceConfig
from device_runtime.drafting.choice import drafter_name
from device_runtime.engines.bundle_adapter import drafter_reason, is_worth_its_place
from device_runtime.engines.loading import load_engine
from submodels.bundle.bundle import load_bundle
from tests.support.adapter_models import make_bundles
from tests.support.stored_adapters import FIGURES, store_random_adapter

UNKNOWN = FIGURES
BETTER, EQUAL, WORSE = (
    msgspec.structs.replace(
        FIGURES,
        stopped_tokens_per_round=1.25,
        speed=speed,
        ngram_tokens_per_round=1.5,
        ngram_speed=1.4,
    )
    for speed in (1.6, 1.4, 1.01)
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
        (UNKNOWN, "auto", "adapter"),
        (BETTER, "auto", "adapter"),
        (EQUAL, "auto", "ngram"),
        (WORSE, "auto", "ngram"),
        (WORSE, "adapter", "adapter"),
        (BETTER, "ngram", "ngram"),
        (BETTER, "none", "none"),
    ],
)
def test_auto_takes_what_measured_faster(
    tmp_path: Path, figures: TrainingFigures, drafter: str, chosen: str
) -> None:
    device = device_with(tmp_path, figures)
    config = DeviceConfig(bundle=device, engine="torch", threads=1, drafter=drafter)  # type: ignore[arg-type]
    assert drafter_name(config, load_engine(config).draft_limits) == chosen


def test_the_choice_names_both_figures_where_they_are_known(tmp_path: Path) -> None:
    bundle = load_bundle(device_with(tmp_path, WORSE), "device")
    reason = " (tokens per round when trained: adapter 1.25, ngram 1.50)"
    assert drafter_reason(bundle) == reason
    assert not is_worth_its_place(bundle.path)


def test_nothing_is_said_of_an_older_adapter_or_of_none(tmp_path: Path) -> None:
    without = load_bundle(make_bundles(tmp_path)[0], "device")
    assert drafter_reason(without) == ""
    assert is_worth_its_place(without.path)
    assert drafter_reason(load_bundle(device_with(tmp_path, UNKNOWN), "device")) == ""


def test_a_card_without_the_newer_figures_is_read(tmp_path: Path) -> None:
    device = device_with(tmp_path, UNKNOWN)
    plain = msgspec.json.decode((device / "adapter.json").read_bytes())
    for name in ("ended", "num_prompts", "speed", "ngram_tokens_per_round", "ngram_speed"):
        del plain["training"][name]
    (device / "adapter.json").write_bytes(msgspec.json.encode(plain))
    assert load_card(device).training == UNKNOWN
