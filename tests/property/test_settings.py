"""Settings: for any values in any sources, the strongest source wins and is named."""

import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.settings.print_config import as_toml
from hat.settings.programs import CLOUD, DEVICE, Program
from hat.settings.sources import Resolved, Sources, load
from tests.support.setting_values import (
    ENVIRONMENT,
    FILE,
    FLAGS,
    Layers,
    as_text,
    as_toml_line,
    expected_winner,
    layers_of,
)

PROGRAMS = {"cloud": CLOUD, "device": DEVICE}


def _load(program: Program[Any], layers: Layers, file: Path) -> Resolved[Any]:
    lines = [as_toml_line(key, value) for key, value in layers[FILE].items()]
    file.write_text("\n".join([f"[{program.name}]", *lines]))
    environ = {
        program.prefix + name.upper(): as_text(value) for name, value in layers[ENVIRONMENT].items()
    }
    flags = {name: as_text(value) for name, value in layers[FLAGS].items()}
    return load(program, Sources(flags, environ, file))


@pytest.mark.parametrize("name", PROGRAMS)
@given(data=st.data())
def test_the_strongest_source_wins_and_is_the_one_printed(name: str, data: st.DataObject) -> None:
    program: Program[Any] = PROGRAMS[name]
    layers = data.draw(layers_of(program))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "hat.toml")
        resolved = _load(program, layers, file)
        printed = as_toml(resolved).splitlines()
        for setting in program.settings:
            expected = expected_winner(program, layers, setting, file)
            if expected.value is None and setting.needed:
                assert setting.name not in resolved.given
                continue
            assert resolved.given[setting.name] == expected
            line = next(line for line in printed if re.match(rf"(# )?{setting.name}\b", line))
            assert line.endswith(f"# {expected.source}")


@pytest.mark.parametrize("name", PROGRAMS)
@given(data=st.data())
def test_what_print_config_prints_is_a_file_with_the_same_meaning(
    name: str, data: st.DataObject
) -> None:
    program: Program[Any] = PROGRAMS[name]
    layers = data.draw(layers_of(program))
    with tempfile.TemporaryDirectory() as folder:
        first = _load(program, layers, Path(folder, "hat.toml"))
        second_file = Path(folder, "printed.toml")
        second_file.write_text(as_toml(first))
        tomllib.loads(second_file.read_text())
        second = load(program, Sources({}, {}, second_file))
    values = {name: given.value for name, given in first.given.items()}
    assert {name: given.value for name, given in second.given.items()} == values


@given(count=st.integers(0, 10**9), suffix=st.sampled_from(["", "k", "m", "K", "M"]))
def test_token_counts_may_have_a_suffix(count: int, suffix: str) -> None:
    factor = {"": 1, "k": 1000, "m": 1000**2, "K": 1024, "M": 1024**2}[suffix]
    assert CLOUD.setting("capacity_tokens").from_text(f"{count}{suffix}") == count * factor


@given(text=st.text(max_size=20), name=st.sampled_from(["capacity_tokens", "max_sessions"]))
def test_any_text_is_a_number_or_is_refused_with_what_came(text: str, name: str) -> None:
    try:
        outcome: object = CLOUD.setting(name).from_text(text)
    except ValueError as error:
        outcome = str(error)
    assert isinstance(outcome, int) or repr(text) in str(outcome)
