"""A device's bundle comes from its cloud: resumed, checked file by file, kept, not believed."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from cloud_server.config import CloudConfig
from cloud_server.core.names.tokens import Entry, Name, digest_of, tokens_of
from cloud_server.daemon.metrics import Metrics
from cloud_server.token_file import write_tokens
from device_runtime.fetching.cloud_files import CloudAddress
from device_runtime.fetching.fetching import Fetcher, UnreachableError
from device_runtime.fetching.listing import FetchError, NotLetInError
from device_runtime.fetching.store import Store
from process.machine import CACHE_VARIABLE
from submodels.bundle.bundle import load_bundle
from submodels.bundle.files import replace_files
from submodels.bundle.signature import SigningKey, new_private_key, sign_bundle
from submodels.errors import BundleError
from tests.support.bundle_server import SECRET, BundleServer, bundle_server
from tests.support.event_loop import until
from tests.support.world import REAL, serve_cloud

INPUT = "input.safetensors"


@pytest.fixture
def device(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device bundle that the test may change, and a cache of its own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return Path(shutil.copytree(folder / "device", tmp_path / "served" / "device"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "new-machine" / "bundles"


class Fetching:
    """What a new machine does, and what it shows of it."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.shown: list[tuple[int, int]] = []

    def of(self, url: str, secret: str | None = SECRET, key: str | None = None) -> Fetcher:
        address = CloudAddress(url, secret)
        return Fetcher(address, Store(self.store), key, REAL, self._show)

    def _show(self, done: int, total: int) -> None:
        self.shown.append((done, total))


@pytest.fixture
def new(store: Path) -> Fetching:
    return Fetching(store)


def assert_same(folder: Path, device: Path) -> None:
    """Every file of the bundle is there, and nothing else."""
    assert {path.name for path in (folder / "device").iterdir()} == {
        path.name for path in device.iterdir()
    }
    for path in device.iterdir():
        assert (folder / "device" / path.name).read_bytes() == path.read_bytes()


def kept_bundles(store: Path) -> list[str]:
    return [path.name for path in store.glob("*") if not path.name.startswith(".")]


async def test_the_bundle_of_a_real_cloud_is_fetched_once_and_kept(folder, store, new, engine):
    config = CloudConfig(folder, port=0, threads=1, secret=SECRET, serve_device_bundle=folder)
    async with serve_cloud(config, engine.load) as server:
        first = await new.of(server.url).fetch()
        num_sent = _num_sent(server.metrics)
        assert await new.of(server.url).fetch() == first
        num_again = _num_sent(server.metrics) - num_sent
    assert_same(first, folder / "device")
    manifest = load_bundle(first, "device", verify=True).manifest
    num_bytes = sum(file.num_bytes for file in manifest.files.values())
    manifest_bytes = (first / "device" / "hat.json").stat().st_size
    assert (num_sent, num_again) == (num_bytes + manifest_bytes, manifest_bytes)
    assert manifest.fingerprint[:12] in first.name
    assert new.shown[-1] == (num_bytes, num_bytes)


def _num_sent(metrics: Metrics) -> int:
    [line] = re.findall(rb"^hat_cloud_bundle_bytes_total (.*)$", metrics.render(None), re.MULTILINE)
    return int(float(line))


async def test_a_refusal_says_why_in_the_clouds_own_words(folder, new, engine, tmp_path):
    over = Entry(Name("lab"), digest_of("hat_lab"), 1.0, revoked_unix_s=2.0)
    write_tokens(file := tmp_path / "tokens.json", tokens_of([over]))
    config = CloudConfig(folder, port=0, threads=1, tokens_file=file, serve_device_bundle=folder)
    async with serve_cloud(config, engine.load) as server:
        with pytest.raises(
            NotLetInError, match=r"secret or token \(.*: lab was revoked\); .*a token"
        ):
            await new.of(server.url, "hat_lab").fetch()
        said = r"asks for a secret or a token.*none \(expected a token, got none\): .*--secret-file"
        with pytest.raises(NotLetInError, match=said):
            await new.of(server.url, None).fetch()


async def test_after_two_cuts_it_goes_on_where_it_was(device, store, new):
    size = (device / INPUT).stat().st_size
    cuts = [(INPUT, 1000), (INPUT, 70_000)]
    async with bundle_server(device, cuts=cuts) as server:
        assert_same(await new.of(server.url).fetch(), device)
        asked = [field for name, field in server.asked if name == INPUT]
        assert asked == ["", "bytes=1000-", "bytes=71000-"]
        # Of bytes that were sent none came twice.
        assert server.num_sent == _num_bytes(device)
        assert size > 71_000


def _num_bytes(device: Path) -> int:
    return sum(path.stat().st_size for path in device.iterdir() if path.name != "hat.sig")


async def test_a_program_that_is_ended_leaves_what_it_has_to_the_next(device, store, new):
    async with bundle_server(device, cuts=[(INPUT, 50_000)]) as server:
        task = asyncio.create_task(new.of(server.url).fetch())
        server.on_asked = lambda name: task.cancel() if ("cut", name) == _second(server) else None
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert kept_bundles(store) == []
        server.on_asked = lambda name: None
        assert_same(await new.of(server.url).fetch(), device)
        asked = [field for name, field in server.asked if name == INPUT]
        assert asked == ["", "bytes=50000-", "bytes=50000-"]


def _second(server: BundleServer) -> tuple[str, str]:
    """Whether the file that was cut is asked for again."""
    again = sum(name == INPUT for name, _ in server.asked) == 2
    return "cut" if again else "", INPUT


async def test_a_cloud_or_proxy_without_ranges_sends_the_file_anew(device, new):
    async with bundle_server(device, cuts=[(INPUT, 50_000)], knows_ranges=False) as server:
        assert_same(await new.of(server.url).fetch(), device)


async def test_a_cloud_that_does_not_say_how_long_a_file_is_is_no_other(device, new):
    async with bundle_server(device, tells_length=False) as server:
        assert_same(await new.of(server.url).fetch(), device)


async def test_another_model_in_mid_download_is_fetched_instead_and_what_is_the_same_is_not(
    device, tmp_path, store, new
):
    other = Path(shutil.copytree(device, tmp_path / "other"))
    (tmp_path / "note.txt").write_text("another file")
    replace_files(load_bundle(other, "device"), [], [tmp_path / "note.txt"])
    async with bundle_server(device, cuts=[(INPUT, 60_000)]) as server:

        def change(name: str) -> None:
            if _second(server)[0] and name == INPUT:
                server.folder = other

        server.on_asked = change
        folder = await new.of(server.url).fetch()
        assert_same(folder, other)
        assert kept_bundles(store) == [folder.name]
        asked = [field for name, field in server.asked if name == INPUT]
        assert asked == ["", "bytes=60000-", "bytes=60000-"]


async def test_files_of_a_bundle_that_is_here_are_not_fetched_for_the_next(device, tmp_path, new):
    async with bundle_server(device) as server:
        first = await new.of(server.url).fetch()
        (tmp_path / "note.txt").write_text("another file")
        replace_files(load_bundle(device, "device"), [], [tmp_path / "note.txt"])
        server.asked.clear()
        second = await new.of(server.url).fetch()
        assert second != first
        assert_same(second, device)
        assert [name for name, _ in server.asked] == ["manifest", "hat.sig", "note.txt"]
    load_bundle(first, "device", verify=True)


async def test_a_file_that_was_damaged_in_the_cache_is_fetched_again_and_alone(device, new):
    async with bundle_server(device) as server:
        folder = await new.of(server.url).fetch()
        content = bytearray((folder / "device" / INPUT).read_bytes())
        content[-1] ^= 1
        (folder / "device" / INPUT).write_bytes(content)
        server.asked.clear()
        assert await new.of(server.url).fetch() == folder
        assert_same(folder, device)
        assert [name for name, _ in server.asked] == ["manifest", "hat.sig", INPUT]


def _one_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"changes": {INPUT: _one_bit}}, f"{INPUT} came with SHA-256 .* sends other bytes"),
        ({"changes": {INPUT: lambda c: c + b"!"}}, rf"{INPUT} has \d+ bytes by the manifest"),
        ({"changes": {INPUT: lambda c: c[:-1]}}, rf"{INPUT} has \d+ bytes by the manifest"),
        (
            {"changes": {INPUT: lambda c: c + bytes(1 << 20)}, "tells_length": False},
            rf"{INPUT} is longer than the \d+ bytes",
        ),
        ({"changes": {"manifest": lambda c: c + b" " * (16 << 20)}}, "manifest .* is longer than"),
        ({"changes": {"manifest": lambda _: b"{}"}}, "expected a format_version"),
        ({"changes": {"manifest": lambda _: b"[" * 100_000}}, "not a valid manifest"),
        ({"fields": {"Content-Encoding": "gzip"}}, "compresses the bundle"),
        ({"status": 302, "fields": {"Location": "http://127.0.0.1:1/"}}, "answers HTTP 302"),
        ({"status": 400}, "answers HTTP 400"),
    ],
)
async def test_what_a_hostile_cloud_sends_is_refused_and_nothing_of_it_is_kept(
    device, store, new, how, words
):
    async with bundle_server(device, **how) as server:
        with pytest.raises((FetchError, BundleError), match=words):
            await new.of(server.url).fetch()
        assert server.credentials == {f"Bearer {SECRET}"}
    assert kept_bundles(store) == []


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("../outside", None),
        ("/tmp/outside", None),
        ("..", None),
        (".hidden", None),
        ("a/b", None),
        ("a\\b", None),
        ("", None),
        ("HAT.JSON", None),
        ("hat.sig", None),
        ("INPUT.safetensors", None),
        ("x" * 200, None),
        ("nul\0", None),
        ("fine", "../../../outside"),
        ("fine", "0" * 63),
    ],
)
async def test_names_that_lead_out_of_the_folder_are_refused_before_anything_is_asked(
    device, store, new, name, sha256
):
    document = json.loads((device / "hat.json").read_text())
    document["files"][name] = {"num_bytes": 3, "sha256": sha256 or "0" * 64}
    (device / "hat.json").write_text(json.dumps(document))
    async with bundle_server(device) as server:
        with pytest.raises(FetchError, match=r"lists|SHA-256 that is none"):
            await new.of(server.url).fetch()
        assert {each for each, _ in server.asked} == {"manifest", "hat.sig"}
    assert not (store.parent / "outside").exists()


async def test_a_bundle_whose_fingerprint_is_a_lie_costs_no_file(device, new):
    """All of its files have their hashes; it is the weights that are others."""
    document = json.loads((device / "hat.json").read_text())
    document["fingerprint"] = "0" * 64
    (device / "hat.json").write_text(json.dumps(document))
    async with bundle_server(device) as server:
        with pytest.raises(BundleError, match=r"hat\.json of the cloud at .*: fingerprint"):
            await new.of(server.url).fetch()
        assert {name for name, _ in server.asked} == {"manifest", "hat.sig"}


async def test_files_that_are_no_bundle_are_not_kept_though_their_hashes_are_right(
    device, store, new
):
    """Found when all of them are here: the weights are not those of the fingerprint."""
    content = bytearray((device / INPUT).read_bytes())
    content[-1] ^= 1
    (device / INPUT).write_bytes(content)
    document = json.loads((device / "hat.json").read_text())
    document["files"][INPUT]["sha256"] = hashlib.sha256(content).hexdigest()
    (device / "hat.json").write_text(json.dumps(document))
    async with bundle_server(device) as server:
        with pytest.raises(BundleError, match="the fingerprint was made of"):
            await new.of(server.url).fetch()
    assert kept_bundles(store) == []


async def test_a_cloud_bundle_is_none_for_a_device(folder, store, new):
    async with bundle_server(folder / "cloud") as server:
        with pytest.raises(FetchError, match="is a cloud bundle, expected a device bundle"):
            await new.of(server.url).fetch()


async def test_where_a_key_is_pinned_a_foreign_manifest_costs_no_file(device, store, new):
    key, foreign = (SigningKey(new_private_key(), "key") for _ in range(2))
    async with bundle_server(device) as server:
        for signer, words in ((None, "is not signed"), (foreign, "is signed by ed25519:")):
            if signer is not None:
                sign_bundle(device, signer)
            with pytest.raises(BundleError, match=words):
                await new.of(server.url, key=key.public).fetch()
        assert {name for name, _ in server.asked} == {"manifest", "hat.sig"}
        sign_bundle(device, key)
        folder = await new.of(server.url, key=key.public).fetch()
    assert_same(folder, device)
    load_bundle(folder, "device", key=key.public)


async def test_an_endless_signature_is_refused(device, new):
    (device / "hat.sig").write_bytes(b"x" * 10_000)
    async with bundle_server(device) as server:
        with pytest.raises(FetchError, match=r"hat\.sig that the cloud sends is longer than 4096"):
            await new.of(server.url).fetch()


async def test_a_disk_without_room_is_told_before_anything_is_fetched(device, new, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Free(65 << 20))
    monkeypatch.setattr("device_runtime.fetching.store._SPARE_BYTES", 65 << 20)
    async with bundle_server(device) as server:
        with pytest.raises(FetchError, match=r"takes 0 MB more in .*, and 68 MB are free"):
            await new.of(server.url).fetch()
        assert {name for name, _ in server.asked} == {"manifest", "hat.sig"}


class _Free:
    def __init__(self, free: int) -> None:
        self.free = free


async def test_a_full_disk_is_one_line_and_what_is_there_stays(device, store, new, monkeypatch):
    def full(self: object, piece: bytes) -> None:
        raise FetchError("cannot write x: no space left on device")

    async with bundle_server(device, cuts=[(INPUT, 50_000)]) as server:
        with monkeypatch.context() as patched:
            patched.setattr("device_runtime.fetching.fetching._Part.write", full)
            with pytest.raises(FetchError, match="no space left"):
                await new.of(server.url).fetch()
        assert_same(await new.of(server.url).fetch(), device)


async def test_a_cloud_that_serves_none_says_what_to_do(folder, new, engine):
    async with serve_cloud(CloudConfig(folder, port=0, threads=1), engine.load) as server:
        with pytest.raises(UnreachableError, match="--serve-device-bundle"):
            await new.of(server.url).fetch()


async def test_without_its_cloud_a_device_starts_with_the_bundle_of_last_time(
    device, new, monkeypatch
):
    async with bundle_server(device) as server:
        folder = await new.of(server.url).at_start()
    monkeypatch.setattr("device_runtime.fetching.fetching._IMPATIENCE_S", 0.0)
    assert await new.of(server.url).at_start() == folder
    monkeypatch.setattr("device_runtime.fetching.fetching.PATIENCE_S", 0.0)
    with pytest.raises(UnreachableError, match="cannot reach the cloud"):
        await new.of("ws://127.0.0.1:1").at_start()


async def test_a_wrong_secret_ends_a_start_unless_there_is_the_bundle_of_last_time(
    folder, new, engine
):
    """With that its link tries on, and says why it is refused."""
    config = CloudConfig(folder, port=0, threads=1, secret=SECRET, serve_device_bundle=folder)
    async with serve_cloud(config, engine.load) as server:
        with pytest.raises(NotLetInError, match="refused this device's secret"):
            await new.of(server.url, "guess").at_start()
        fetched = await new.of(server.url, SECRET).at_start()
        assert await new.of(server.url, "guess").at_start() == fetched


async def test_two_machines_in_one_home_fetch_one_after_the_other(device, store, new):
    async with bundle_server(device) as server:
        with Store(store).alone():
            task = asyncio.create_task(new.of(server.url).fetch())
            await until(lambda: len(server.asked) == 2)
            await asyncio.sleep(0.1)
            assert not task.done()
        assert_same(await task, device)


async def test_parts_that_nobody_wants_any_more_are_removed_after_a_week(device, store, new):
    (store / ".fetching").mkdir(parents=True)
    for name, age_s in (("a" * 64, 8 * 86_400), ("b" * 64, 60)):
        path = store / ".fetching" / name
        path.write_bytes(b"part")
        os.utime(path, (REAL.unix_clock() - age_s,) * 2)
    async with bundle_server(device) as server:
        await new.of(server.url).fetch()
    assert [path.name for path in (store / ".fetching").iterdir()] == ["b" * 64]
