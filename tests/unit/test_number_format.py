"""Which number format a cloud computes in and which one its rows cross in, as decisions."""

import re
from pathlib import Path
from typing import get_args

import pytest

from cloud_server.config import CloudConfig
from cloud_server.number_format import (
    FORMATS,
    NAMES,
    NUM_ROUNDS,
    DtypeSetting,
    FormatTimes,
    Room,
    choose_format,
    given_format,
    is_open,
    wire_format,
)
from hat.settings.print_config import as_toml
from hat.settings.programs import CLOUD
from hat.settings.sources import Sources, load
from wire.limits import ITEM_BYTES
from wire.messages import Dtype

DOCUMENT = Path("docs/number-formats.md")
ENOUGH = Room(1, 1)


def test_an_old_processor_chooses_float32_though_it_decodes_faster_in_bfloat16() -> None:
    """Seen with a real model on a processor without AVX-512: prompts 6.5 times slower."""
    times = {Dtype.BF16: FormatTimes(7.9, 0.076), Dtype.FP32: FormatTimes(1.2, 0.105)}
    choice = choose_format(Dtype.BF16, times, ENOUGH)
    assert choice.dtype is Dtype.FP32
    for part in ("float32: 256 rows", "7.9 s in bfloat16", "1.2 s in float32", "76 ms"):
        assert part in choice.reason


def test_a_processor_with_bfloat16_instructions_keeps_the_bundles_format() -> None:
    times = {Dtype.BF16: FormatTimes(0.41, 0.024), Dtype.FP32: FormatTimes(0.68, 0.032)}
    choice = choose_format(Dtype.BF16, times, ENOUGH)
    assert choice.dtype is Dtype.BF16
    assert choice.reason.startswith("bfloat16: 256 rows take about 0.4 s in bfloat16 and 0.7 s")


def test_a_small_gain_is_not_worth_twice_the_memory() -> None:
    times = {Dtype.BF16: FormatTimes(1.0, 0.0), Dtype.FP32: FormatTimes(0.95, 0.0)}
    assert choose_format(Dtype.BF16, times, ENOUGH).dtype is Dtype.BF16


def test_what_does_not_fit_is_not_chosen_and_both_sizes_are_said() -> None:
    times = {Dtype.BF16: FormatTimes(9.0, 1.0), Dtype.FP32: FormatTimes(1.0, 0.1)}
    choice = choose_format(Dtype.BF16, times, Room(3 << 30, (3 << 30) - 1))
    assert choice.dtype is Dtype.BF16
    assert "float32 would take 3 GiB" in choice.reason
    assert "3 GiB are free" in choice.reason


def test_a_request_is_a_prompt_and_its_rounds() -> None:
    assert FormatTimes(2.0, 0.5).request_s == 2.0 + NUM_ROUNDS * 0.5


@pytest.mark.parametrize("stored", Dtype)
def test_only_a_processor_that_was_told_nothing_has_a_choice(stored: Dtype) -> None:
    assert is_open("auto", stored, is_cpu=True) is (stored is not Dtype.FP32)
    assert not is_open("auto", stored, is_cpu=False)
    assert not is_open("bfloat16", stored, is_cpu=True)
    assert given_format("auto", stored).dtype is stored
    assert given_format("float16", stored).dtype is Dtype.FP16


@pytest.mark.parametrize("stored", Dtype)
@pytest.mark.parametrize("engine", ["auto", "float32"])
def test_an_engine_in_float32_leaves_the_uplink_as_the_checkpoint_has_it(
    engine: str, stored: Dtype
) -> None:
    assert wire_format("auto", engine, stored) is stored


def test_a_float32_checkpoint_in_a_bfloat16_engine_sends_no_more_than_the_engine_reads() -> None:
    assert wire_format("auto", "bfloat16", Dtype.FP32) is Dtype.BF16


@pytest.mark.parametrize("engine", get_args(DtypeSetting))
@pytest.mark.parametrize("stored", [Dtype.FP32, Dtype.BF16])
def test_float16_rows_are_never_chosen_for_a_checkpoint_in_another_format(
    engine: str, stored: Dtype
) -> None:
    assert wire_format("auto", engine, stored) is not Dtype.FP16


@pytest.mark.parametrize("name", FORMATS)
def test_a_wire_format_that_was_asked_for_is_taken(name: str) -> None:
    assert wire_format(name, "auto", Dtype.BF16) is FORMATS[name]


def test_print_config_says_what_auto_leads_to() -> None:
    shown = as_toml(load(CLOUD, Sources({"wire_dtype": "float32"}, {}, None)))
    notes = [line for line in shown.splitlines() if "auto: " in line]
    assert [note.partition(";")[0] for note in notes] == ["# dtype auto: the bundle's"]


def test_the_documents_table_has_every_pair_that_the_cloud_accepts_with_its_size() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d) \|", DOCUMENT.read_text(), re.MULTILINE)
    named = {(engine, wire): int(size) for engine, wire, size in rows}
    engines, wires = (
        [choice for choice in CLOUD.setting(name).choices if choice != "auto"]
        for name in ("dtype", "wire_dtype")
    )
    sizes = {name: ITEM_BYTES[FORMATS[name]] for name in wires}
    assert named == {(engine, wire): sizes[wire] for engine in engines for wire in wires}


def test_names_and_settings_agree() -> None:
    assert {*NAMES.values(), "auto"} == set(get_args(DtypeSetting))
    assert (CloudConfig(Path()).dtype, CloudConfig(Path()).wire_dtype) == ("auto", "auto")
