"""A cloud gives its device bundle to whoever shows the secret, file by file, and nothing else."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner
from yarl import URL

from cloud_server.config import CloudConfig
from cloud_server.daemon.bundle_desk import Rate
from cloud_server.server import CloudServer
from hat.cli import hat
from process.errors import StartError
from process.machine import CACHE_VARIABLE
from submodels.bundle.bundle import load_bundle
from submodels.bundle.files import replace_files
from submodels.bundle.signature import SigningKey, new_private_key, sign_bundle
from submodels.errors import BundleError
from submodels.split import SplitOptions, split_checkpoint
from tests.support.fake_middle_engine import FakeMiddleEngine
from tests.support.world import REAL, serve_cloud

SECRET = "the-secret-of-this-cloud"
SHOWN = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture
def bundles(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundles that the test may damage."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return Path(shutil.copytree(folder, tmp_path / "out"))


@pytest.fixture
def serving(bundles: Path) -> CloudConfig:
    return CloudConfig(bundles, port=0, threads=1, secret=SECRET, serve_device_bundle=bundles)


class Desk:
    """Asks a cloud for its bundle."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self.client = client
        self.url = f"{url}/v1/bundle"

    async def get(self, path: str = "", **headers: str) -> tuple[int, bytes]:
        """Status and body, with the secret."""
        url = URL(self.url + path, encoded=True)
        async with self.client.get(url, headers=SHOWN | headers) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def asked(config: CloudConfig, engine: FakeMiddleEngine) -> AsyncIterator[Desk]:
    async with (
        serve_cloud(config, engine.load) as server,
        aiohttp.ClientSession() as client,
    ):
        yield Desk(client, server.http_url)


def digest_of(bundles: Path) -> str:
    return hashlib.sha256((bundles / "device" / "hat.json").read_bytes()).hexdigest()


async def test_all_files_of_the_bundle_come_as_they_are(serving, bundles, engine):
    sign_bundle(bundles / "device", SigningKey(new_private_key(), "key"))
    async with asked(serving, engine) as desk:
        assert await desk.get() == (200, (bundles / "device" / "hat.json").read_bytes())
        names = {path.name for path in (bundles / "device").iterdir()} - {"hat.json"}
        assert {"hat.sig", "input.safetensors"} <= names
        for name in names:
            content = (bundles / "device" / name).read_bytes()
            assert await desk.get(f"/{digest_of(bundles)}/{name}") == (200, content)


async def test_a_file_comes_from_any_byte_on(serving, bundles, engine):
    content = (bundles / "device" / "input.safetensors").read_bytes()
    path = f"/{digest_of(bundles)}/input.safetensors"
    async with asked(serving, engine) as desk:
        for field, status, expected in (
            ("bytes=0-", 200, content),
            ("bytes=70000-", 206, content[70000:]),
            ("bytes=5-9", 206, content[5:10]),
            (f"bytes={len(content) - 1}-", 206, content[-1:]),
            (f"bytes=7-{10**14}", 206, content[7:]),
            ("bytes=-5", 200, content),
            ("bytes=1-2,4-5", 200, content),
            ("lines=1-2", 200, content),
        ):
            assert await desk.get(path, Range=field) == (status, expected), field
        for field in (f"bytes={len(content)}-", "bytes=9-8", f"bytes={10**14}-"):
            status, _ = await desk.get(path, Range=field)
            assert status == 416, field


async def test_nothing_is_served_unless_it_was_asked_for(serving, bundles, engine):
    async with asked(replace(serving, serve_device_bundle=None), engine) as desk:
        assert (await desk.get())[0] == 404
        assert (await desk.get(f"/{digest_of(bundles)}/input.safetensors"))[0] == 404


@pytest.mark.parametrize(
    "shown", [{}, {"Authorization": "Bearer guess"}, {"Authorization": f"Basic {SECRET}"}]
)
async def test_who_does_not_show_the_secret_gets_nothing(serving, bundles, engine, shown):
    async with asked(serving, engine) as desk:
        for path in ("", f"/{digest_of(bundles)}/hat.sig", "/other/x"):
            async with desk.client.get(desk.url + path, headers=shown) as answer:
                assert answer.status == 401
                assert b"input" not in await answer.read()


async def test_wrong_secrets_wait_and_the_right_one_does_not(serving, engine):
    async with serve_cloud(serving, engine.load) as server, aiohttp.ClientSession() as client:
        desk = Desk(client, server.http_url)
        for _ in range(2):
            async with client.get(desk.url) as answer:
                assert answer.status == 401
        assert len(server.reception.wrong_secrets) == 1
        assert (await desk.get())[0] == 200


async def test_only_what_the_manifest_lists_has_a_name(serving, bundles, engine):
    (bundles / "device" / "beside").write_text("not the bundle's")
    (bundles / "device" / "link").symlink_to(bundles / "cloud" / "hat.json")
    async with asked(serving, engine) as desk:
        for name in (
            *("beside", "link", ".", "..", "%2e%2e", "nothing", "input.safetensors%00"),
            *("../cloud/hat.json", "..%2fcloud%2fhat.json", "%2fetc%2fpasswd", "..%5ccloud"),
            "%2e%2e%2fdevice%2finput.safetensors",
        ):
            status, body = await desk.get(f"/{digest_of(bundles)}/{name}")
            assert (name, status) == (name, 404) or (name in (".", "..") and status in (200, 410))
            assert b"not the bundle's" not in body


async def test_another_bundle_is_told_apart_from_a_name_that_is_none(serving, engine):
    async with asked(serving, engine) as desk:
        assert (await desk.get(f"/{'0' * 64}/input.safetensors"))[0] == 410


async def test_a_file_that_is_replaced_is_served_as_it_was_and_a_changed_one_is_not(
    serving, bundles, engine
):
    path = bundles / "device" / "input.safetensors"
    content = path.read_bytes()
    async with asked(serving, engine) as desk:
        whole = f"/{digest_of(bundles)}/input.safetensors"
        path.rename(path.with_name("old"))
        path.write_bytes(b"another")
        assert await desk.get(whole) == (200, content)
        with path.with_name("old").open("r+b") as file:
            file.write(b"changed in its place")
        os.utime(path.with_name("old"), ns=(0, 0))
        with pytest.raises(aiohttp.ClientPayloadError):
            await desk.get(whole)


async def test_few_answers_are_under_way_at_once(serving, bundles, engine):
    # The first piece goes at once, the next one after a second.
    async with asked(replace(serving, bundle_mbit_per_s=0.5), engine) as desk:
        url = f"{desk.url}/{digest_of(bundles)}/input.safetensors"
        slow = [await desk.client.get(url, headers=SHOWN) for _ in range(4)]
        async with desk.client.get(url, headers=SHOWN) as fifth:
            assert (fifth.status, fifth.headers["Retry-After"]) == (503, "1")
        for answer in slow:
            answer.close()


async def test_a_question_counts_as_a_piece_however_little_it_asks_for(
    serving, bundles, engine, large, monkeypatch
):
    counted: list[int] = []
    pause_s = Rate.pause_s

    def counting(rate: Rate, num_bytes: int, now: float, is_computing: bool = False) -> float:
        counted.append(num_bytes)
        return pause_s(rate, num_bytes, now, is_computing)

    monkeypatch.setattr(Rate, "pause_s", counting)
    here = f"/{digest_of(bundles)}"
    async with asked(replace(serving, bundle_mbit_per_s=100_000), engine) as desk:
        for path, field, status in (
            (f"{here}/input.safetensors", "bytes=5-5", 206),
            (f"{here}/nothing", "", 404),
            (f"{here}/input.safetensors", f"bytes={10**14}-", 416),
            (f"/{'0' * 64}/input.safetensors", "", 410),
        ):
            counted.clear()
            assert (await desk.get(path, Range=field))[0] == status
            assert counted == [1 << 16], (path, field)
        counted.clear()
        assert (await desk.get(f"{here}/{large.name}"))[0] == 200
        assert sum(counted) == large.stat().st_size, "a file counts as what it has"


@pytest.fixture
def large(bundles: Path, tmp_path: Path) -> Path:
    """A file of the bundle that is more than the buffers of a connection hold."""
    path = tmp_path / "large.safetensors"
    path.write_bytes(bytes(16 << 20))
    replace_files(load_bundle(bundles, "device"), [], [path])
    return path


async def test_an_answer_that_takes_nothing_makes_room(
    serving, bundles, engine, large, monkeypatch
):
    """As those do whose link was cut without a word."""
    monkeypatch.setattr("cloud_server.daemon.bundle_desk._STALLED_S", 0.3)
    async with asked(replace(serving, bundle_mbit_per_s=100_000), engine) as desk:
        url = f"{desk.url}/{digest_of(bundles)}/{large.name}"
        held = [await desk.client.get(url, headers=SHOWN) for _ in range(4)]
        await asyncio.sleep(0.8)
        async with desk.client.get(url, headers=SHOWN) as fifth:
            assert fifth.status == 200
            assert len(await fifth.read()) == large.stat().st_size
        for answer in held:
            answer.close()


async def test_whoever_has_a_name_fetches_by_his_token_until_it_is_revoked(
    serving, bundles, engine, large, tmp_path
):
    def token(*arguments: str) -> str:
        file = ["--tokens-file", str(tmp_path / "tokens.json")]
        result = CliRunner().invoke(hat, ["token", *arguments, *file])
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    shown = {"Authorization": f"Bearer {token('add', 'anna')}"}
    # A piece a second, for minutes.
    names = {"secret": None, "tokens_file": tmp_path / "tokens.json", "bundle_mbit_per_s": 0.5}
    async with asked(replace(serving, **names), engine) as desk:
        async with desk.client.get(desk.url, headers=shown) as answer:
            assert answer.status == 200
        async with desk.client.get(desk.url, headers=SHOWN) as answer:
            said = "expected a token, got one that lets nobody in"
            assert (answer.status, await answer.text()) == (401, said)
        url = f"{desk.url}/{digest_of(bundles)}/{large.name}"
        async with desk.client.get(url, headers=shown) as answer:
            assert answer.status == 200
            await asyncio.to_thread(token, "revoke", "anna")
            async with asyncio.timeout(10):
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()
        async with desk.client.get(desk.url, headers=shown) as answer:
            assert answer.status == 401


async def test_a_bundle_can_be_fetched_while_the_model_is_loaded(serving, engine):
    server = CloudServer(serving, engine.load, REAL.clock)
    await server.open()
    try:
        async with aiohttp.ClientSession() as client:
            assert (await Desk(client, server.http_url).get())[0] == 200
    finally:
        await server.close()


async def test_a_bundle_of_another_split_is_refused_at_the_start(serving, bundles, tmp_path):
    model = Path(__file__).parents[2] / "models" / "stories260k"
    other = split_checkpoint(SplitOptions(str(model), tmp_path / "other", 2, onnx_weights=())).out
    with pytest.raises(StartError, match="is for other middle layers than this cloud's bundle"):
        CloudServer(replace(serving, serve_device_bundle=other), _no_engine, REAL.clock)
    with pytest.raises(BundleError, match="no device bundle at"):
        CloudServer(replace(serving, serve_device_bundle=tmp_path), _no_engine, REAL.clock)


async def test_a_bundle_that_is_not_signed_is_not_served_where_a_key_is_pinned(serving, bundles):
    key = SigningKey(new_private_key(), "key")
    sign_bundle(bundles / "cloud", key)
    with pytest.raises(BundleError, match="device is not signed"):
        CloudServer(replace(serving, bundle_key=key.public), _no_engine, REAL.clock)


def _no_engine(*_: object) -> None:
    raise AssertionError


def test_all_answers_together_keep_to_the_rate():
    rate = Rate(1000.0)
    assert rate.pause_s(500, now=10.0) == 0
    assert rate.pause_s(500, now=10.0) == 0.5
    assert rate.pause_s(500, now=10.25) == pytest.approx(0.75)
    assert rate.pause_s(500, now=20.0) == 0


def test_while_the_engine_computes_downloads_are_slow():
    rate = Rate(1000.0)
    assert rate.pause_s(500, now=10.0, is_computing=True) == 0
    assert rate.pause_s(500, now=10.0) == 4.0
