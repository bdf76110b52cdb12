"""`hat status` over scripted sides: what it shows, what it leaves out, and its exit code."""

import asyncio
import os
import ssl
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from cloud_server.daemon.metrics import Metrics as CloudMetrics
from device_runtime.api.metrics import GenerationTimer, Metrics
from device_runtime.generation.timeline import Timeline
from hat.cli import OK, run
from hat.quantities import num_bytes, rate, seconds
from hat.status.asking import Side, SideStatus, root_url, roots_beside
from hat.status.report import report
from hat.status.samples import parse_samples
from process.errors import ConfigError
from process.tls.certificates import pin_of_pem
from process.tls.self_signed import self_signed
from tests.support.api_server import story_generator
from tests.support.fake_generator import scripted_stats
from tests.support.metric_tables import PAGES

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("HAT_")}


@dataclass
class ScriptedSide:
    """Something with /ready and /metrics."""

    page: bytes
    trouble: str | None = None
    key: str | None = None
    url: str = ""
    num_asked: int = 0
    has_page: bool = True
    asked_often: asyncio.Event = field(default_factory=asyncio.Event)

    async def ready(self, _request: web.Request) -> web.Response:
        """200, or 503 and why."""
        return web.Response(status=503 if self.trouble else 200, text=self.trouble or "ready")

    async def metrics(self, request: web.Request) -> web.Response:
        """The page, for who has the key."""
        self.num_asked += 1
        if not self.has_page:
            raise web.HTTPNotFound
        if self.num_asked > 2:
            self.asked_often.set()
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "expected the API key"}}, status=401)
        return web.Response(body=self.page)


@asynccontextmanager
async def serving(
    side: ScriptedSide, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedSide]:
    """The side on a free port of this machine."""
    app = web.Application()
    app.add_routes([web.get("/ready", side.ready), web.get("/metrics", side.metrics)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        scheme = "http" if tls is None else "https"
        side.url = "{}://{}:{}".format(scheme, *runner.addresses[0])
        yield side
    finally:
        await runner.cleanup()


def device_page() -> bytes:
    """What a device says that has answered once."""
    generator = story_generator()
    metrics = Metrics("story", generator, generator, lambda: 0.2)
    timer = GenerationTimer(metrics, num_prompt_tokens=5, arrived_s=0.0)
    timer.emitted(1234)
    timer.ended("stop", scripted_stats(Timeline()))
    return metrics.render()


def cloud_page() -> bytes:
    """What a cloud says that has just begun."""
    return CloudMetrics(verify_tokens=16).render(None)


def status_command(*arguments: str, **environ: str):
    return asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hat", "status", *arguments),
        stdout=PIPE,
        stderr=PIPE,
        cwd=ROOT,
        env=ENVIRON | environ,
    )


async def status(*arguments: str, **environ: str) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of `hat status`."""
    process = await status_command(*arguments, **environ)
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return process.returncode, out.decode(), err.decode()


async def test_both_sides_are_shown_with_what_they_say_of_themselves() -> None:
    async with (
        serving(ScriptedSide(device_page())) as device,
        serving(ScriptedSide(cloud_page())) as cloud,
    ):
        code, out, _ = await status("--device", f"{device.url}/v1", "--cloud", cloud.url)
    assert code == 0
    lines = dict(line.strip().split("  ", 1) for line in out.splitlines() if line[:1] == " ")
    assert out.splitlines()[0] == f"device  {device.url}  ready"
    assert f"cloud   {cloud.url}  ready" in out.splitlines()
    words = {name: text.strip() for name, text in lines.items()}
    assert words["model"] == "story"
    link = "connected; 20 ms there and back, 8.00 Mbit/s up, - down; 1 connection so far"
    link += ", 3 further ones for prompts now"
    assert words["link"] == link
    assert words["requests"] == "0 running, 0 waiting; 1 answered, 0 left early, 0 failed"
    assert words["drafts"] == "5 of 8 (62 %) accepted; 3.50 tokens per round"
    assert words["tokens"].startswith("1,234 generated, ")
    assert words["devices"] == "0 devices, 0 sessions, 0 of them waiting for their device"
    assert words["faults"] == "none"


async def test_a_side_that_is_not_ready_says_why_and_fails_the_command() -> None:
    trouble = '{"error": {"message": "connecting to the cloud at x:1"}}'
    async with serving(ScriptedSide(device_page(), trouble)) as device:
        code, out, err = await status("--device", device.url)
    assert code == 1
    assert out.startswith(f"device  {device.url}  connecting to the cloud at x:1\n")
    assert err == "hat: not everything is ready\n"


async def test_a_named_side_that_is_not_there_fails_the_command() -> None:
    async with serving(ScriptedSide(device_page())) as device:
        code, out, _ = await status("--device", device.url, "--cloud", "ws://127.0.0.1:9")
    assert code == 1
    assert "cloud   http://127.0.0.1:9  connection refused" in out


async def test_a_password_in_an_address_is_not_shown() -> None:
    code, out, err = await status("--cloud", "ws://who:hush@127.0.0.1:9")
    assert code == 1
    assert "cloud   http://...@127.0.0.1:9  connection refused" in out
    assert "hush" not in out + err


@pytest.mark.parametrize(
    ("flags", "is_named"),
    [
        ((), False),
        (("--cloud", "http://gpu:7700"), True),
        (("--cloud-metrics", "http://gpu:7701"), True),
        (("--cloud-pin", f"sha256/{'A' * 43}="), True),
    ],
)
def test_whatever_option_is_of_the_cloud_names_it(
    flags: tuple[str, ...], is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Side] = []
    monkeypatch.setattr("hat.status.run.run_status", lambda sides, _: asked.extend(sides) or True)
    assert run(["status", *flags]) == OK
    assert [side.is_named for side in asked] == [False, is_named]


async def test_sides_that_are_taken_for_each_other_fail_the_command() -> None:
    async with (
        serving(ScriptedSide(device_page())) as device,
        serving(ScriptedSide(cloud_page())) as cloud,
        serving(ScriptedSide(b"# nothing\n")) as other,
    ):
        swapped = await status("--device", cloud.url, "--cloud", device.url)
        strange = await status("--cloud", other.url)
    assert swapped[0] == strange[0] == 1
    assert "expected a device, found a cloud" in swapped[1]
    assert "expected a cloud, found a device" in swapped[1]
    assert "expected a cloud, found a stranger" in strange[1]


async def test_a_clouds_figures_are_asked_for_at_their_own_address() -> None:
    async with (
        serving(ScriptedSide(cloud_page())) as figures,
        serving(ScriptedSide(device_page())) as neighbour,
        serving(ScriptedSide(b"", has_page=False)) as cloud,
    ):
        found = await status("--cloud", cloud.url, "--cloud-metrics", figures.url)
        without = await status("--cloud", cloud.url, "--cloud-metrics", "http://127.0.0.1:9")
        device = await status("--device", cloud.url)
        beside = await status("--cloud", cloud.url, "--cloud-metrics", neighbour.url)
    assert beside[0] == 0
    assert f"no figures: {neighbour.url}: expected a cloud, found a device" in beside[1]
    assert found[0] == without[0] == 0
    assert f"cloud   {cloud.url}  ready\n  devices   0 devices" in found[1]
    reason = "no figures: http://127.0.0.1:9: connection refused"
    assert without[1].splitlines() == [f"cloud   {cloud.url}  ready; {reason}"]
    assert device[0] == 1
    assert f"device  {cloud.url}  404" in device[1]


async def test_a_cloud_that_shows_its_own_certificate_is_known_by_its_pin(tmp_path: Path) -> None:
    files = self_signed(tmp_path, ["localhost"], datetime.now(UTC))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.certificate, files.key)
    pin = pin_of_pem(files.certificate.read_bytes())
    async with serving(ScriptedSide(cloud_page()), tls) as cloud:
        named = ("--cloud", cloud.url, "--cloud-pin")
        right = await status(*named, pin)
        wrong = await status(*named, "sha256/" + "A" * 43 + "=")
        none = await status(*named, "sha256/A")
        untold = await status(*named[:2])
    assert right[0] == 0
    assert wrong[0] == 1
    assert f"its certificate is not trusted, whose key is {pin}" in wrong[1]
    assert "--cloud-pin: expected sha256/ and 32 bytes in base64, got 'sha256/A'" in none[2]
    assert "not trusted; give its pin with --cloud-pin, or its CA with --cloud-ca" in untold[1]


def test_the_address_of_figures_follows_from_the_clouds() -> None:
    assert roots_beside("https://gpu-server:7700") == (
        *("https://gpu-server:7701", "http://gpu-server:7701"),
    )
    assert roots_beside("http://[::1]:7700") == ("http://[::1]:7701",)
    assert roots_beside("https://localhost:7700") == (
        *("http://localhost:7701", "https://localhost:7701"),
    )
    assert roots_beside("https://gate.example")[0] == "https://gate.example:7701"


async def test_the_key_comes_from_the_environment() -> None:
    async with serving(ScriptedSide(device_page(), key="sesame")) as device:
        without = await status("--device", device.url)
        with_key = await status("--device", device.url, HAT_API_KEY="sesame")
    assert without[0] == 1
    assert "401 expected the API key" in without[1]
    assert with_key[0] == 0


async def test_watching_asks_again_until_it_is_interrupted() -> None:
    async with serving(ScriptedSide(device_page())) as device:
        process = await status_command("--device", device.url, "--watch", "0.2")
        await asyncio.wait_for(device.asked_often.wait(), DEADLINE_S)
        process.terminate()
        await asyncio.wait_for(process.wait(), DEADLINE_S)


def test_rates_are_those_between_two_looks() -> None:

    def at(at_s: float, num_tokens: int) -> SideStatus:
        page = f"# TYPE hat_generation_tokens counter\nhat_generation_tokens_total {num_tokens}\n"
        return SideStatus("device", "http://x", at_s, True, None, parse_samples(page))

    assert "100 generated, 45.0 per second now" in report(at(12.0, 100), at(10.0, 10))
    # A device that was started anew has counted less.
    assert "5 generated, - per second now" in report(at(12.0, 5), at(10.0, 10))


def test_quantiles_lie_in_their_bucket() -> None:
    registry = CollectorRegistry()
    times = Histogram("hat_t", "Times.", registry=registry, buckets=(1, 2, 4))
    for value in (0.5, 1.5, 1.5, 3, 9):
        times.observe(value)
    samples = parse_samples(generate_latest(registry).decode())
    assert samples.quantile("hat_t", 0.5) == pytest.approx(1.75)
    assert samples.quantile("hat_t", 1.0) == 4
    assert samples.mean("hat_t") == pytest.approx(3.1)
    assert samples.quantile("hat_other", 0.5) is None


@pytest.mark.parametrize(
    "text",
    [
        "localhost:8000",
        "ftp://x",
        "http://",
        "nonsense",
        "wss://[::1",
        "wss://h:99999",
        "http://h:0",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--device: expected an address"):
        root_url(text, "--device")


def test_quantities_have_three_digits_and_a_unit() -> None:
    assert [seconds(x) for x in (0.0041, 0.21, 1.236, 12.3)] == [
        "4.1 ms",
        "210 ms",
        "1.24 s",
        "12.3 s",
    ]
    assert [num_bytes(x) for x in (812, 62_100, 1.24e6)] == ["812 B", "62.1 kB", "1.24 MB"]
    assert [rate(x) for x in (None, 1e12, 12_400)] == ["-", "over 10 Gbit/s", "99.2 kbit/s"]


def test_a_cloud_shows_its_idle_sessions_in_host_memory() -> None:

    metrics = {
        "hat_cloud_host_sessions": ("gauge", 2),
        "hat_cloud_host_cache_tokens": ("gauge", 1508),
        "hat_cloud_host_cache_capacity_tokens": ("gauge", 6032),
        "hat_cloud_host_saves_total": ("counter", 8),
        "hat_cloud_host_restores_total": ("counter", 6),
        "hat_cloud_host_drops_total": ("counter", 1),
    }
    page = "".join(f"# TYPE {n} {kind}\n{n} {value}\n" for n, (kind, value) in metrics.items())
    side = SideStatus("cloud", "http://x", 1.0, True, None, parse_samples(page))
    (line,) = [each for each in report(side, None).splitlines() if each.startswith("  host")]
    expected = "host 2 idle sessions, 1,508 of 6,032 (25 %) tokens; 8 saved, 6 brought back"
    assert " ".join(line.split()) == f"{expected}, 1 dropped"


def test_each_side_says_which_build_runs_there() -> None:
    for name, page in PAGES.items():
        side = SideStatus(name, "http://x", 1.0, True, None, parse_samples(page()))
        assert report(side, None).endswith("  build     1, commit 2; 3, 4")
    cloud = SideStatus("cloud", "http://x", 1.0, True, None, parse_samples(cloud_page().decode()))
    assert report(cloud, None).endswith("  build     -")
