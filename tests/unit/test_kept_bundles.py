"""Fetched bundles are removed when others were used since, and never from under a device."""

import logging
import os
from pathlib import Path

import pytest

from device_runtime.fetching.keeping import Keeper, hold_named
from device_runtime.fetching.store import Store


def _bundle(root: Path, number: int, *parts: str) -> Path:
    """A fetched bundle that was used at this time, by nobody who is still there."""
    folder = root / f"model-{number:012x}-{number:012x}"
    for part in parts or ("device",):
        (folder / part).mkdir(parents=True)
        (folder / part / "hat.json").write_bytes(bytes(1000))
    os.utime(folder, (number, number))
    return folder


def _left(root: Path) -> set[Path]:
    return set(root.iterdir())


def test_the_bundles_that_were_used_last_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = [_bundle(tmp_path, number) for number in (1, 2, 3, 4)]
    keeper = Keeper(tmp_path, 2)
    assert keeper.use(made[0], 5.0)
    assert set(keeper.remove_old()) == {made[1], made[2]}
    assert _left(tmp_path) == {made[0], made[3]}
    assert f"removed {made[2]} (0.0 MB): the 2 bundles that were used last are kept" in caplog.text
    assert keeper.remove_old() == []


def test_what_a_device_runs_with_stays_though_it_is_old(tmp_path: Path) -> None:
    old, middle, new = (_bundle(tmp_path, number) for number in (1, 2, 3))
    other_device = Keeper(tmp_path, 1)
    assert other_device.use(old, 1.0)
    assert Keeper(tmp_path, 1).remove_old() == [middle]
    assert _left(tmp_path) == {old, new}


def test_a_device_that_goes_over_to_a_new_bundle_holds_the_old_one_and_none_before(
    tmp_path: Path,
) -> None:
    first, second, third, last = (_bundle(tmp_path, number) for number in (1, 2, 3, 9))
    device = Keeper(tmp_path, 1)
    for now, folder in enumerate((first, second, second, third), start=3):
        assert device.use(folder, float(now))
    assert Keeper(tmp_path, 1).remove_old() == [first]
    assert _left(tmp_path) == {second, third, last}


def test_what_was_not_fetched_or_holds_something_of_somebodys_stays(tmp_path: Path) -> None:
    pair = tmp_path / "model-0123456789ab"
    for side in ("device", "cloud"):
        (pair / side).mkdir(parents=True)
        (pair / side / "hat.json").touch()
    both = _bundle(tmp_path, 1, "device", "cloud")
    filled = _bundle(tmp_path, 2)
    (filled / "notes").touch()
    (tmp_path / f"link-{3:012x}-{3:012x}").symlink_to(filled)
    (tmp_path / ".fetching").mkdir()
    before = _left(tmp_path)
    assert Keeper(tmp_path, 1).remove_old() == []
    assert _left(tmp_path) == before
    assert both in before


def test_a_bundle_that_is_gone_is_not_used(tmp_path: Path) -> None:
    assert not Keeper(tmp_path, 1).use(tmp_path / "model-0-0", 1.0)
    assert Keeper(tmp_path / "nothing", 1).remove_old() == []


def test_nothing_is_remembered_of_what_was_removed(tmp_path: Path) -> None:
    old, new = (_bundle(tmp_path, number) for number in (1, 2))
    store = Store(tmp_path, 1)
    store.remember("wss://old:7700", old)
    store.remember("wss://new:7700", new)
    store.remove_old()
    assert store.last_of("wss://old:7700") is None
    assert store.last_of("wss://new:7700") == new
    assert [path.read_text() for path in (tmp_path / ".of-clouds").iterdir()] == [f"{new.name}\n"]


@pytest.mark.parametrize("named", ["{0}", "{0}/device", "{0}/device/..", "link", "inner"])
def test_a_bundle_that_was_named_by_its_path_is_held_as_well(named: str, tmp_path: Path) -> None:
    root = tmp_path / "bundles"
    old, _, new = (_bundle(root, number) for number in (1, 2, 3))
    (tmp_path / "link").symlink_to(old)
    (tmp_path / "inner").symlink_to(old / "device")
    held = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else None
    hold_named(tmp_path / named.format(old), 1.0)
    if held is not None:
        assert len(os.listdir("/proc/self/fd")) == len(held) + 1
    Keeper(root, 1).remove_old()
    assert _left(root) == {old, new}


def test_a_bundle_of_ones_own_is_not_touched(tmp_path: Path) -> None:
    mine = tmp_path / "model"
    (mine / "device").mkdir(parents=True)
    os.utime(mine, (1, 1))
    for path in (mine, mine / "device", tmp_path / "missing", tmp_path / "loop"):
        hold_named(path, 9.0)
    assert mine.stat().st_mtime == 1


def test_one_bundle_is_told_in_the_singular(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, new = (_bundle(tmp_path, number) for number in (1, 2))
    Keeper(tmp_path, 1).remove_old()
    assert "MB): the bundle that was used last is kept" in caplog.text
    assert _left(tmp_path) == {new}
