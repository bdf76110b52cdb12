"""The images' Dockerfiles: whom they serve as, what they install, on what they stand."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cloud_server.config import CloudConfig, metrics_port
from tests.support.dockerfiles import DOCKERFILES, instruction

ROOT = Path(__file__).resolve().parents[2]
CLOUD_PORT, DEVICE_PORT = CloudConfig(Path()).port, 8000
FIGURES_PORT = metrics_port(CloudConfig(Path()))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_serves_as_another_user_on_the_port_that_it_exposes(path: Path) -> None:
    role = json.loads(instruction(path, "CMD"))[0]
    port, probed = {
        "cloud": (CLOUD_PORT, FIGURES_PORT),
        "device": (DEVICE_PORT, DEVICE_PORT),
    }[role]
    assert json.loads(instruction(path, "ENTRYPOINT")) == ["hat"]
    assert instruction(path, "EXPOSE") == str(port)
    assert json.loads(instruction(path, "HEALTHCHECK").split("CMD ")[1]) == [
        "hat-probe",
        str(probed),
        "/health",
    ]
    assert instruction(path, "STOPSIGNAL") == "SIGTERM"
    assert instruction(path, "USER") == "10001:10001"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_installs_by_locks_that_exist_and_the_makefiles_torch(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(re.findall(r"(?:\.|hat-serving)\[(\w+)\]", path.read_text()))
    assert extras - set(project["optional-dependencies"]) == set()
    locks = re.findall(
        r"locks/install\.py ([\w -]+?) (?:--|\\|&)", path.read_text().replace("\n", " \\")
    )
    names = {name for words in locks for name in words.split()}
    names.update(re.findall(r"/([\w-]+)\.txt", path.read_text()))
    assert len(names) > 1
    assert {name for name in names if not (ROOT / "locks" / f"{name}.txt").is_file()} == set()
    pinned = re.findall(r"^ARG TORCH=(.*)$", path.read_text(), re.MULTILINE)
    assert set(pinned) <= set(re.findall(r"(?m)^TORCH \?= (.*)$", (ROOT / "Makefile").read_text()))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_made_of_exact_bases_and_of_nothing_without_a_hash(path: Path) -> None:
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", path.read_text()))
    bases = re.findall(
        r"(?m)^ARG (\w+_IMAGE)=[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*(?:@sha256:\w{64})?$", text
    )
    used = re.findall(r"(?m)^FROM (\S+)", text)
    assert used == [f"${{{base}}}" for base in (bases if len(bases) == 2 else bases * 2)]
    for command in re.findall(r"pip (?:--python \S+ )?install ([^&\n]*)", text):
        assert "--require-hashes" in command or "--no-index" in command or "--offline" in command
    assert "--without-pip" in text or "vllm" in path.name


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing_in_an_image_and_would(path: Path, tmp_path: Path) -> None:
    hadolint = str(Path(sys.executable).with_name("hadolint"))
    worse = tmp_path / path.name
    worse.write_text(path.read_text() + "RUN pip install requests\nUSER root\n")
    runs = [
        subprocess.run([hadolint, str(one)], capture_output=True, text=True, check=False)
        for one in (path, worse)
    ]
    assert (runs[0].returncode, runs[0].stdout) == (0, "")
    assert "DL3013" in runs[1].stdout
    assert "DL3002" in runs[1].stdout


def test_pinning_images_writes_digests_behind_tags_and_renews_them() -> None:
    spec = importlib.util.spec_from_file_location("pin_images", ROOT / "deploy" / "pin_images.py")
    assert spec is not None
    assert spec.loader is not None
    pin_images = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pin_images)
    old, new = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    for path in DOCKERFILES:
        images = re.findall(r"(?m)^ARG \w+_IMAGE=([^@\n]+)", path.read_text())
        once = pin_images.pinned(path.read_text(), dict.fromkeys(images, old).__getitem__)
        assert images
        assert once.count(f"@{old}") == len(images)
        assert all(f"={image}@{old}\n" in once for image in images)
        assert pin_images.pinned(once, lambda _: new) == once.replace(old, new)


def test_a_build_gets_all_that_the_wheel_needs_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    allowed = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed.update(wheel["packages"])
    needed.update(source.split("/")[0] for source in wheel["force-include"])
    assert allowed == needed | {"deploy/probe.py", "locks"}
    assert all((ROOT / name).exists() for name in allowed)
