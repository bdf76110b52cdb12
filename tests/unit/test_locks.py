"""What the lock files hold, held against pyproject.toml and what is installed; no network."""

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "locks"
FILES = sorted(LOCKS.glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

LAST_FAULTY = {
    # The link: CVE-2026-69244, and CVE-2026-54273 to 54280 before it.
    "aiohttp": "3.14.2",
    # Buffers, certificates' names: CVE-2026-69247, before it CVE-2026-39892.
    "cryptography": "49.0.0",
    # Sandbox of chat templates: CVE-2025-27516.
    "jinja2": "3.1.5",
    # No number, but many bounds of kernels and of the loader: 1.28's notes.
    "onnxruntime": "1.27.0",
    # Paths of external data: CVE-2026-27489, 34446, 34447.
    "onnx": "1.20.1",
    # Weights of published heads: CVE-2026-24747. Nothing calls torch.jit.script: CVE-2025-3000.
    "torch": "2.9.1",
    # Names of chat templates as paths: CVE-2026-9856; trust_remote_code: CVE-2026-5241.
    "transformers": "5.9.0",
    # Paths of sharded checkpoints: CVE-2026-69112.
    "accelerate": "1.14.0",
    # Arguments of its command line: CVE-2024-34062.
    "tqdm": "4.66.2",
    # A temporary folder that others may make first: CVE-2025-71176.
    "pytest": "9.0.2",
}
"""The newest version with a known fault of what we ask for, as far as we know."""

MACHINES = [
    {"sys_platform": system, "platform_machine": machine, "python_version": python}
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
    for python in ("3.11", "3.12", "3.13")
]
VLLM_MACHINES = [{"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11"}]


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"locks_{name}", LOCKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _entries(name: str) -> list[str]:
    """Each locked line with its hashes."""
    text = re.sub(r"(?m)^#.*\n", "", (LOCKS / f"{name}.txt").read_text())
    return [" ".join(entry.split("\\\n")) for entry in re.split(r"\n(?=\S)", text.strip())]


def _locked(name: str) -> list[Requirement]:
    return [Requirement(entry.partition(" --hash")[0].strip()) for entry in _entries(name)]


def _on(machine: dict[str, str]) -> dict[str, str]:
    system = {"linux": "Linux", "darwin": "Darwin"}[machine["sys_platform"]]
    full = f"{machine['python_version']}.9"
    environment = {k: str(v) for k, v in default_environment().items()}
    return environment | machine | {"platform_system": system, "python_full_version": full}


def _versions(name: str, machine: dict[str, str]) -> dict[str, Version]:
    """What a lock installs on a machine."""
    environment = _on(machine)
    return {
        canonicalize_name(requirement.name): Version(str(requirement.specifier).removeprefix("=="))
        for requirement in _locked(name)
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


def _asked(extras: tuple[str, ...]) -> Iterator[Requirement]:
    """What the project itself asks for with these extras."""
    pending, optional = list(extras), PROJECT["optional-dependencies"]
    lines = list(PROJECT["dependencies"])
    while pending:
        for line in optional[pending.pop()]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["name"]:
                pending += requirement.extras
            else:
                lines.append(line)
    yield from map(Requirement, lines)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_is_one_version_with_hashes_and_names_no_index(path: Path) -> None:
    text = path.read_text()
    entries = _entries(path.stem)
    assert entries
    for entry in entries:
        assert re.fullmatch(
            r"[\w.-]+(\[[\w,-]+\])?==[\w.+!]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+", entry
        ), entry[:100]
    assert "://" not in text
    assert not re.search(r"(?m)^-|index-url|find-links", text)


@pytest.mark.parametrize("name", ["development", "runtime", "device", "cloud", "vllm-cpu"])
def test_a_lock_has_a_version_that_fits_of_all_that_pyproject_asks_for(name: str) -> None:
    """Stale? `make lock` writes the locks anew."""
    compile_ = _module("compile")
    lock = compile_.locks(_pyproject())[name]
    for machine in MACHINES if lock.universal else VLLM_MACHINES:
        versions, environment = _versions(name, machine), _on(machine)
        wanted = [*_asked(lock.extras), *map(Requirement, lock.requirements)]
        assert len(wanted) > 8
        for requirement in wanted:
            if requirement.name == "torch" or not (
                requirement.marker is None or requirement.marker.evaluate(environment)
            ):
                continue
            version = versions.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement} on {machine}: make lock"
            assert version in requirement.specifier, f"{requirement}, locked {version}: make lock"


@pytest.mark.parametrize("name", ["development", "device", "cloud"])
def test_a_lock_holds_what_its_packages_ask_for_and_nothing_else(name: str) -> None:
    """By the metadata of what is installed here, where that is the locked version."""
    of_cuda = {canonicalize_name(r.name) for r in _locked("torch-cuda")}
    here = _on({k: default_environment()[k] for k in MACHINES[0]})  # type: ignore[literal-required]
    locked = {canonicalize_name(r.name): r for r in _locked(name)}
    locked = {n: r for n, r in locked.items() if r.marker is None or r.marker.evaluate(here)}
    lock = _module("compile").locks(_pyproject())[name]
    wanted = [*_asked(lock.extras), *map(Requirement, lock.requirements)]
    seen: set[tuple[str, frozenset[str]]] = set()
    reached: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        package = canonicalize_name(requirement.name)
        if (package, frozenset(requirement.extras)) in seen or package in of_cuda:
            continue
        seen.add((package, frozenset(requirement.extras)))
        reached.add(package)
        assert package in locked or package == "torch", f"{package}: make lock"
        wanted += _needs(package, requirement.extras, here, locked.get(package))
    assert set(locked) - reached == set()


def _needs(
    package: str, extras: set[str], here: dict[str, str], locked: Requirement | None
) -> list[Requirement]:
    """What an installed package asks for."""
    try:
        found = distribution(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed here")
    if locked is not None and not locked.specifier.contains(found.version, prereleases=True):
        pytest.skip(f"{package} {found.version} is installed here, the lock has {locked.specifier}")
    needs = [Requirement(line) for line in found.requires or []]
    environments = [here | {"extra": extra} for extra in ("", *extras)]
    return [
        need
        for need in needs
        if need.marker is None or any(need.marker.evaluate(each) for each in environments)
    ]


@pytest.mark.parametrize("name", ["runtime", "device", "cloud", "build", "over-vllm"])
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_what_is_run_elsewhere_has_the_versions_that_the_tests_have(
    name: str, machine: dict[str, str]
) -> None:
    tested = _versions("development", machine)
    assert {n: v for n, v in _versions(name, machine).items() if tested.get(n) != v} == {}


@pytest.mark.parametrize(("package", "faulty"), LAST_FAULTY.items())
def test_nothing_with_a_known_fault_is_asked_for_or_locked(package: str, faulty: str) -> None:
    asked = [r for r in _asked(("dev",)) if canonicalize_name(r.name) == package]
    assert asked or package == "cryptography"
    for requirement in asked:
        assert faulty not in requirement.specifier, str(requirement)
    for path in FILES:
        for machine in MACHINES:
            version = _versions(path.stem, machine).get(canonicalize_name(package))
            assert version is None or version > Version(faulty), f"{path.name}: {package} {version}"


def test_torch_is_the_makefiles_and_of_the_index_or_a_build_for_cpus() -> None:
    [entry] = _entries("torch")
    [line] = re.findall(r"(?m)^TORCH \?= (.*)$", (ROOT / "Makefile").read_text())
    assert entry.startswith(f"{line} ")
    [cpu] = _entries("torch-cpu")
    assert cpu.startswith(f"{line}+cpu ")
    # Of the index: for several Pythons, on two systems and two processors.
    assert entry.count("--hash") > 12
    for path in FILES:
        if not path.stem.startswith("torch"):
            names = {canonicalize_name(r.name) for r in _locked(path.stem)}
            assert not [n for n in names if re.match(r"torch$|nvidia|cuda", n)], path.name


def test_another_torch_is_taken_only_where_somebody_asks_for_one() -> None:
    other_torch = _module("install").other_torch
    [entry] = _entries("torch")
    locked = entry.split()[0]
    assert other_torch({}) == []
    assert other_torch({"TORCH": locked, "TORCH_FLAGS": ""}) == []
    assert other_torch({"TORCH": "torch==2.12.1"}) == ["torch==2.12.1"]
    assert other_torch({"TORCH_FLAGS": "--pre --no-deps"}) == ["--pre", "--no-deps", locked]


def test_torch_for_cpus_is_tried_first_and_cuda_comes_where_torch_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install = _module("install")
    ran: list[str] = []
    offered: set[str] = set()

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        ran.append(Path(command[-1]).stem)
        return SimpleNamespace(returncode=0 if ran[-1] in offered else 1)

    monkeypatch.setattr(install, "subprocess", SimpleNamespace(run=run))
    for there, wants, expected in (
        ({"torch-cpu"}, False, ["torch-cpu"]),
        ({"torch", "torch-cuda"}, True, ["torch-cpu", "torch", "torch-cuda"]),
        ({"torch"}, False, ["torch-cpu", "torch"]),
    ):
        ran.clear()
        offered.clear()
        offered.update(there)
        monkeypatch.setattr(install, "wants_cuda", lambda _, wants=wants: wants)
        install.install_torch(["pip"], "python")
        assert ran == expected
    offered.clear()
    with pytest.raises(SystemExit):
        install.install_torch(["pip"], "python")


def test_cuda_libraries_are_wanted_where_torch_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = _module("install")
    monkeypatch.setattr(install, "LOCKS", tmp_path)
    (tmp_path / "torch-cuda.txt").write_text("sympy==1.0 --hash=sha256:00\n")
    assert install.wants_cuda(_python()), "torch asks for sympy"
    (tmp_path / "torch-cuda.txt").write_text("nvidia-nowhere==1.0 --hash=sha256:00\n")
    assert not install.wants_cuda(_python())


def _python() -> str:
    import sys

    return sys.executable


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
