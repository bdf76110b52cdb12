"""The arm that drafts with Medusa heads runs where there are heads for the model."""

from pathlib import Path

import pytest

from bench.arms import ARMS, find_arm
from bench.heads import fitting_arms, heads_for
from tests.support.adapter_models import make_bundles
from tests.support.reference import STORIES
from tests.support.split_models import split


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stories") / "split"
    split(STORIES, out, 1)
    return out


def test_the_story_model_has_heads_and_runs_every_arm(stories: Path) -> None:
    heads = heads_for(stories)
    assert heads == STORIES.parent / "stories260k-medusa"
    arms = fitting_arms(ARMS, stories)
    assert [arm.name for arm in arms] == [arm.name for arm in ARMS]
    with_heads = [arm.name for arm in arms if arm.device.get("medusa_heads") == heads]
    assert with_heads == ["u-medusa"]


def test_a_model_without_heads_does_without_the_arm(tmp_path: Path) -> None:
    device, _ = make_bundles(tmp_path)
    assert heads_for(device.parent) is None
    names = [arm.name for arm in fitting_arms(ARMS, device.parent)]
    assert names == [arm.name for arm in ARMS if arm.name != "u-medusa"]


def test_an_arm_that_needs_no_heads_stays_as_it_is(stories: Path) -> None:
    assert fitting_arms([find_arm("hat")], stories) == (find_arm("hat"),)
