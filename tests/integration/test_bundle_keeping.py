"""Bundles that a device fetches in turn: what stays of them."""

import logging
import shutil
from pathlib import Path

import pytest

from device_runtime.fetching.cloud_files import CloudAddress
from device_runtime.fetching.fetching import Fetcher
from device_runtime.fetching.listing import FetchError
from device_runtime.fetching.store import Store
from process.machine import CACHE_VARIABLE
from process.program.passing import passes
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


@pytest.mark.parametrize("sent", [b"<html>Please log in</html>", b"{}", b"\xff\xfe"])
async def test_what_is_no_bundle_ends_no_start_for_good(
    sent: bytes, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A network's own page in place of the cloud's answer: with a bundle of last time a device
    starts, and a new machine's service tries again."""

    def fetcher(store: str) -> Fetcher:
        address = CloudAddress(server.url, SECRET)
        return Fetcher(address, Store(tmp_path / store), None, REAL, lambda done, total: None)

    async with bundle_server(folder / "device") as server:
        fetched = await fetcher("old").at_start()
        server.changes["manifest"] = lambda _: sent
        assert await fetcher("old").at_start() == fetched
        assert "starting with the bundle that was fetched from it last" in caplog.text
        with pytest.raises(FetchError, match=r"hat\.json of the cloud at") as raised:
            await fetcher("new").at_start()
    assert passes(raised.value)
