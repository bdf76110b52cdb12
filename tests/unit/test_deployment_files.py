"""deploy/ and docs/scaling.md name only what the programs have."""

import asyncio
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner

from cloud_server.certificates import with_own_certificate
from cloud_server.config import CloudConfig, metrics_port
from cloud_server.daemon.app import Serving, make_app
from cloud_server.daemon.figures_app import make_figures_app
from cloud_server.daemon.metrics import Metrics
from cloud_server.exposure import exposure_of
from device_runtime.api.app import make_app as make_device_app
from hat.cli import hat
from hat.settings.options import sources_of
from hat.settings.programs import CLOUD, DEVICE
from hat.settings.sources import load
from process.listening.limits import Limits
from process.program.build import COMMIT_VARIABLE
from process.tls.self_signed import self_signed
from tests.support.dockerfiles import DOCKERFILES, instruction
from tests.support.scaling_tables import DOCUMENT
from wire.handshake import BUNDLE_PATH, LINK_PATH

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE_FILES = sorted(DEPLOY.glob("compose*.yaml"))
TEXTS = [DOCUMENT, *(path for path in DEPLOY.rglob("*") if path.is_file())]

FOREIGN_FLAGS = {
    "--away-ms",
    "--build",
    "--build-arg",
    "--cert",
    "--chmod",
    "--create-home",
    "--format",
    "--from",
    "--from-file",
    "--interval",
    "--key",
    "--no-build-isolation",
    "--no-cache",
    "--no-deps",
    "--no-index",
    "--offline",
    "--python",
    "--require-hashes",
    "--retries",
    "--simulated-ms",
    "--start-period",
    "--system",
    "--timeout",
    "--uplink-rows-per-s",
    "--uid",
    "--user-group",
    "--wheel-dir",
    "--without-pip",
    "--sysctl",
    "--yes",
}
"""Of docker, pip, uv, useradd and kubectl, and of the commands of `bench`."""

CLOUD_PORT, DEVICE_PORT = CloudConfig(Path()).port, 8000
FIGURES_PORT = metrics_port(CloudConfig(Path()))


def _text(path: Path) -> str:
    return path.read_text()


def _documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(_text(path)))


def _kubernetes() -> dict[str, Any]:
    documents = _documents(DEPLOY / "kubernetes" / "cloud.yaml")
    return {document["kind"]: document for document in documents}


def _pod() -> Any:
    return _kubernetes()["Deployment"]["spec"]["template"]


def _container() -> Any:
    (container,) = _pod()["spec"]["containers"]
    return container


def _compose() -> Any:
    (document,) = _documents(DEPLOY / "compose.yaml")
    return document["services"]


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Where a `hat` command line stands, and its words after `hat`."""
    for path in DOCKERFILES:
        yield path.name, json.loads(instruction(path, "CMD"))
    for path in COMPOSE_FILES:
        for name, service in _documents(path)[0]["services"].items():
            yield (
                f"{path.name} {name}",
                [re.sub(r"\$\{.*?:-|\}", "", w) for w in service["command"]],
            )
    yield "cloud.yaml", _container()["args"]
    for path in TEXTS:
        text = re.sub(r" \\\n *", " ", _text(path))
        for line in re.findall(r"(?m)^(?:#  |    )\s*(hat (?:cloud|device|split) .*)$", text):
            yield path.name, shlex.split(line, comments=True)[1:]


def _known_flags() -> set[str]:
    options = [parameter for command in hat.commands.values() for parameter in command.params]
    return {flag for option in options for flag in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_flag_is_one_of_the_programs_or_of_a_named_tool(path: Path) -> None:
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", _text(path)))
    assert flags - _known_flags() - FOREIGN_FLAGS == set()


@pytest.mark.parametrize(
    ("where", "words"), [pytest.param(*c, id=f"{n} {c[0]}") for n, c in enumerate(_commands())]
)
def test_every_command_line_is_understood(
    where: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("a-secret\n")
    show = ["--print-config"] if words[0] in ("cloud", "device") else ["--help"]
    result = CliRunner().invoke(hat, [*words, *show])
    assert result.exit_code == 0, f"{where}: {result.output}"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_may_be_told_its_commit(path: Path) -> None:
    last = _text(path).rpartition("\nFROM ")[2]
    assert f"\nARG COMMIT=\nENV {COMMIT_VARIABLE}=${{COMMIT}}\n" in last


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_variable_of_ours_is_a_setting(path: Path) -> None:
    known = {"HAT_CONFIG", COMMIT_VARIABLE}
    for program in (CLOUD, DEVICE):
        for setting in program.settings:
            known.update(setting.variables)
            if setting.about.secret:
                known.update(f"{name}_FILE" for name in setting.variables)
    assert set(re.findall(r"\bHAT_[A-Z_]+", _text(path))) - known == set()


def test_every_metric_of_the_document_is_on_the_clouds_page() -> None:
    named = set(re.findall(r"hat_cloud_\w+", _text(DOCUMENT)))
    page = Metrics(verify_tokens=1).render(None).decode()
    assert named
    assert {name for name in named if f"\n{name}" not in page} == set()


def test_the_device_has_the_path_that_its_image_asks() -> None:
    generator = SimpleNamespace(max_context_tokens=1)
    access = SimpleNamespace(api_key=None, cors_origins=())
    service = SimpleNamespace(generator=generator, access=access, clock=lambda: 0.0)
    app = make_device_app(cast(Any, service))
    assert "/health" in {resource.canonical for resource in app.router.resources()}


def test_compose_joins_both_sides_by_name_port_and_secret() -> None:
    cloud, device = _compose()["cloud"], _compose()["device"]
    assert f"wss://cloud:{CLOUD_PORT}" in device["command"]
    (made,) = re.findall(r"openssl req (?:.*\\\n)?.*", _text(DEPLOY / "compose.yaml"))
    assert "subjectAltName=DNS:cloud" in made
    shown = cloud["environment"]["HAT_CLOUD_TLS_CERTIFICATE"]
    assert device["environment"]["HAT_DEVICE_CLOUD_CA"] == shown == "/run/secrets/hat_certificate"
    assert device["ports"] == [f"127.0.0.1:{DEVICE_PORT}:{DEVICE_PORT}"]
    assert device["depends_on"]["cloud"]["condition"] == "service_healthy"
    assert cloud["healthcheck"]["test"] == ["CMD", "hat-probe", str(FIGURES_PORT), "/ready"]
    for service in (cloud, device):
        assert service["environment"]["HAT_SECRET_FILE"] == "/run/secrets/hat_secret"
        named = re.findall(r"/run/secrets/(\w+)", str(service["environment"]))
        assert sorted(named) == sorted(service["secrets"])
        assert service["build"]["dockerfile"] in {f"deploy/{path.name}" for path in DOCKERFILES}
        assert _seconds(service["stop_grace_period"]) > CloudConfig(Path()).drain_timeout_s + 10
    (over,) = _documents(DEPLOY / "compose.vllm.yaml")
    assert set(over["services"]) <= set(_compose())


def test_the_manifest_probes_and_scrapes_paths_that_the_cloud_has() -> None:
    container, annotations = _container(), _pod()["metadata"]["annotations"]
    serving = cast(
        Serving, SimpleNamespace(reception=SimpleNamespace(clock=lambda: 0.0), desk=None)
    )
    cloud = {resource.canonical for resource in make_app(serving).router.resources()}
    own = {resource.canonical for resource in make_figures_app(serving).router.resources()}
    paths = {name: container[name]["httpGet"]["path"] for name in container if "Probe" in name}
    assert paths == {
        "startupProbe": "/ready",
        "readinessProbe": "/ready",
        "livenessProbe": "/health",
    }
    assert LINK_PATH in cloud
    assert {*paths.values(), annotations["prometheus.io/path"]} <= own
    port, figures = container["ports"]
    (outside,) = _kubernetes()["Service"]["spec"]["ports"]
    assert port["containerPort"] == outside["port"] == CLOUD_PORT
    assert port["name"] == outside["targetPort"]
    assert figures["containerPort"] == FIGURES_PORT
    assert annotations["prometheus.io/port"] == str(FIGURES_PORT)
    assert f"--metrics-port={FIGURES_PORT}" in container["args"]
    # Beyond loopback figures speak TLS.
    assert "--metrics-host=0.0.0.0" in container["args"]
    schemes = {container[name]["httpGet"].get("scheme") for name in container if "Probe" in name}
    assert schemes == {"HTTPS"}
    assert annotations["prometheus.io/scheme"] == "https"
    probed = {container[name]["httpGet"]["port"] for name in container if "Probe" in name}
    assert probed == {figures["name"]}


def test_the_manifest_waits_for_the_drain_and_names_nothing_as_our_variables_begin() -> None:
    parts, spec = _kubernetes(), _pod()["spec"]
    (drain,) = re.findall(r"--drain-timeout-s=(\d+)", " ".join(_container()["args"]))
    (sleep,) = re.findall(r"\d+", " ".join(_container()["lifecycle"]["preStop"]["exec"]["command"]))
    assert spec["terminationGracePeriodSeconds"] > int(sleep) + int(drain) + 10
    assert spec["enableServiceLinks"] is False
    prefixes = tuple(p.prefix for p in (CLOUD, DEVICE))
    for document in parts.values():
        variable = document["metadata"]["name"].upper().replace("-", "_") + "_"
        assert not variable.startswith((*prefixes, "VLLM_"))
    labels = _pod()["metadata"]["labels"]
    assert parts["Service"]["spec"]["selector"] == labels
    assert parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in _container()["volumeMounts"]} == volumes
    secret = next(m for m in _container()["volumeMounts"] if m["name"] == "secret")
    assert {"name": "HAT_SECRET_FILE", "value": f"{secret['mountPath']}/secret"} in _container()[
        "env"
    ]


def test_both_sides_of_every_deployment_keep_their_connections_warm() -> None:
    setting = "net.ipv4.tcp_slow_start_after_idle"
    for service in _compose().values():
        assert service["sysctls"] == {setting: "0"}
        assert "network_mode" not in service
    (made,) = _pod()["spec"]["initContainers"]
    assert made["image"] == _container()["image"]
    assert made["command"][-1] == f"echo 0 > /proc/sys/{setting.replace('.', '/')}"
    lines = _text(DEPLOY / "sysctl.conf").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"{setting} = 0"]


def test_only_the_container_that_makes_the_setting_has_rights_and_it_ends_at_once() -> None:
    (made,) = _pod()["spec"]["initContainers"]
    assert made["securityContext"]["privileged"]
    assert made["command"][:2] == ["sh", "-c"]
    assert "volumeMounts" not in made
    assert "restartPolicy" not in made, "it would run on beside the cloud"
    assert _container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_balancers_pass_the_link_and_the_bundle_alone_to_the_clouds_port() -> None:
    nginx, haproxy = _text(DEPLOY / "nginx.conf"), _text(DEPLOY / "haproxy.cfg")
    assert re.findall(r"location (.*) \{", nginx) == [f"= {LINK_PATH}", f"~ ^{BUNDLE_PATH}(/|$)"]
    assert nginx.count("proxy_pass https://clouds;") == 2
    bundle = f"{{ path {BUNDLE_PATH} }} || {{ path_beg {BUNDLE_PATH}/ }}"
    assert f"deny unless {{ path {LINK_PATH} }} || {bundle}\n" in haproxy
    assert set(re.findall(r"server cloud-\d:(\d+)", nginx)) == {str(CLOUD_PORT)}
    assert set(re.findall(r"server cloud-\d cloud-\d:(\d+)", haproxy)) == {str(CLOUD_PORT)}
    assert "check send meth GET uri /ready" in haproxy


def test_every_cloud_that_is_shipped_or_told_of_speaks_tls_where_others_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("s" * 40)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    hosts = []
    for where, words in _commands():
        if words[0] != "cloud" or "--self-test" in words:
            continue
        context = hat.commands["cloud"].make_context("cloud", words[1:])
        composed = "c.pem" if where.startswith("compose") else ""
        environ = {f"HAT_CLOUD_TLS_{name}": composed for name in ("CERTIFICATE", "KEY") if composed}
        config = load(CLOUD, replace(sources_of(CLOUD, context.params), environ=environ)).config()
        config = with_own_certificate(config, [], {"HAT_CACHE": str(tmp_path)}, now)
        notices = exposure_of(config, Limits(2048, 1024), now)
        assert [each.text for each in notices if each.fatal] == [], where
        assert not config.insecure, where
        hosts.append(config.host)
    assert hosts.count("0.0.0.0") >= 6
    for service in (over["services"]["cloud"] for (over,) in map(_documents, COMPOSE_FILES)):
        inherited = _compose()["cloud"]["environment"]
        assert {"HAT_CLOUD_TLS_CERTIFICATE", "HAT_CLOUD_TLS_KEY"} <= {
            *inherited,
            *service.get("environment", {}),
        }


def test_the_balancers_speak_tls_on_both_sides_and_check_the_clouds() -> None:
    nginx, haproxy = _text(DEPLOY / "nginx.conf"), _text(DEPLOY / "haproxy.cfg")
    assert re.findall(r"listen (.*);", nginx) == ["443 ssl"]
    assert "proxy_pass https://clouds;" in nginx
    assert "proxy_ssl_verify on;" in nginx
    assert re.findall(r"bind (\S+ \S+)", haproxy) == [":443 ssl"]
    assert "ssl verify required" in haproxy
    assert "verify none" not in haproxy


def with_tls(folder: Path) -> ssl.SSLContext:
    files = self_signed(folder / "tls", ["cloud"], datetime.now(UTC))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    return context


async def test_the_probe_tells_ready_from_not_ready_and_from_nothing(tmp_path: Path) -> None:
    ready, refused = await _probe_a_server(200), await _probe_a_server(503)
    assert ready == (0, "200 why\n")
    assert await _probe_a_server(200, with_tls(tmp_path)) == ready
    assert await _probe_a_server(503, with_tls(tmp_path)) == refused
    assert refused == (1, "503 why\n")
    assert _probe(1)[0] == 1


@pytest.mark.parametrize(("host", "first"), [("127.0.0.1", b"G"), ("0.0.0.0", b"\x16")])
def test_the_probe_asks_first_as_the_port_is_likely_to_want_it(host: str, first: bytes) -> None:
    """What the port does not want is a line in the cloud's log, every five seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_probe, server.getsockname()[1], HAT_CLOUD_METRICS_HOST=host)
        begun = []
        for _ in range(2):
            connection, _ = server.accept()
            with connection:
                begun.append(connection.recv(1))
        assert asked.result()[0] == 1
    assert begun == [first, b"G\x16".replace(first, b"")]


async def _probe_a_server(status: int, tls: ssl.SSLContext | None = None) -> tuple[int, str]:
    """What the probe says of a server that answers so, in this process's event loop."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text="why\n")

    app = web.Application()
    app.router.add_get("/ready", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        return await asyncio.to_thread(_probe, runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _probe(port: int, **variables: str) -> tuple[int, str]:
    command = [sys.executable, str(DEPLOY / "probe.py"), str(port), "/ready"]
    # A proxy of the environment is not for this machine's own port.
    # Nor does a certificate for the link say that this port shows it, as compose has it.
    environment = os.environ | {
        "http_proxy": "http://127.0.0.1:9",
        "HAT_CLOUD_TLS_CERTIFICATE": "/run/secrets/hat_certificate",
        **variables,
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    return done.returncode, done.stdout


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]
