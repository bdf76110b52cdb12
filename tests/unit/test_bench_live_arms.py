"""The arms are settings of this project's own programs, and differ in nothing else."""

import dataclasses
from pathlib import Path

import pytest

from bench.arms import ARMS, Arm, arm_names, find_arm
from cloud_server.config import CloudConfig
from device_runtime.config import DeviceConfig
from hat.settings.programs import CLOUD, DEVICE
from hat.settings.sources import Sources, load

ALL = [pytest.param(arm, id=arm.name) for arm in ARMS]


@pytest.mark.parametrize("arm", ALL)
def test_an_arm_is_made_of_settings_that_the_programs_take(arm: Arm) -> None:
    for program, settings in ((CLOUD, arm.cloud), (DEVICE, arm.device)):
        flags = {"bundle": "x", **{name: str(value) for name, value in settings.items()}}
        config = load(program, Sources(flags, {}, None)).config()
        assert {name: getattr(config, name) for name in settings} == settings


@pytest.mark.parametrize("arm", ALL)
def test_a_setting_in_the_table_is_not_the_default(arm: Arm) -> None:
    cloud, device = CloudConfig(Path()), DeviceConfig(Path())
    for config, settings in ((cloud, arm.cloud), (device, arm.device)):
        known = dataclasses.asdict(config)
        assert [name for name, value in settings.items() if known[name] == value] == []


def test_every_name_finds_its_arm() -> None:
    assert [find_arm(name).name for name in arm_names()] == [arm.name for arm in ARMS]
    assert len(set(arm_names())) == len(ARMS)
    with pytest.raises(KeyError):
        find_arm("no such arm")


def test_arms_that_send_a_prompt_whole_let_a_step_take_it() -> None:
    for name in ("u-shape", "hat-no-chunking"):
        arm = find_arm(name)
        assert arm.device["chunk_tokens"] == 0
        assert arm.cloud["max_frame_tokens"] <= arm.cloud["step_budget_tokens"]
