"""Bundles that a device fetches in turn: what stays of them."""

import logging
import shutil
from pathlib import Path

import pytest

from device_runtime.fetching.cloud_files import CloudAddress
from device_runtime.fetching.fetching import Fetcher
from device_runtime.fetching.store import Store
from process.machine import CACHE_VARIABLE
from submodels.bundle.bundle import load_bundle
from submodels.bundle.files import replace_files
from tests.support.bundle_server import SECRET, bundle_server
from tests.support.world import REAL


async def test_a_device_that_follows_its_cloud_keeps_the_bundle_it_leaves_and_none_before(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With one bundle to be kept: the last one is held until the device has gone over."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    device = Path(shutil.copytree(folder / "device", tmp_path / "served" / "device"))
    store = tmp_path / "bundles"
    async with bundle_server(device) as server:
        address = CloudAddress(server.url, SECRET)
        fetcher = Fetcher(address, Store(store, 1), None, REAL, lambda done, total: None)
        folders = []
        for number in range(3):
            (tmp_path / f"note{number}.txt").write_text("another file")
            replace_files(load_bundle(device, "device"), [], [tmp_path / f"note{number}.txt"])
            folders.append(await fetcher.fetch())
    left = {path for path in store.iterdir() if not path.name.startswith(".")}
    assert left == set(folders[1:])
    assert f"removed {folders[0]} (" in caplog.text
    load_bundle(folders[1], "device", verify=True)
