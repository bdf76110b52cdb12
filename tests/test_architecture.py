"""The architecture as tests: sizes, imports, state, and words that may not stay in the code."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = tuple(CONFIG["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
CONTRACTS = CONFIG["tool"]["importlinter"]["contracts"]

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50

IMPURE_MODULES = ("asyncio", "socket", "threading", "time", "random", "secrets")
IMPURE_PACKAGES = ("torch", "aiohttp", "transformers")

MUTABLE_CALLS = ("list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter")
MUTABLE_CALLS += ("OrderedDict", "WeakValueDictionary", "WeakKeyDictionary", "WeakSet")
MUTATORS = ("append", "add", "update", "pop", "popitem", "setdefault", "clear", "extend")
MUTATORS += ("insert", "remove", "discard", "popleft", "appendleft", "sort", "reverse")

# Spelled in halves, since this file is read as well.
BANNED_WORDS = ("TO" + "DO", "FIX" + "ME", "X" + "XX", "raise Not" + "ImplementedError")


def _files() -> Iterator[Path]:
    for room in (*ROOMS, "tests"):
        yield from sorted((ROOT / room).rglob("*.py"))


FILES = {str(path.relative_to(ROOT)): path for path in _files()}
ROOM_FILES = [name for name in FILES if not name.startswith("tests/")]


def _module(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_coverage_is_of_the_pure_folders() -> None:
    [pure] = [each for each in CONTRACTS if each["name"].startswith("Pure folders")]
    assert CONFIG["tool"]["coverage"]["run"]["source_pkgs"] == pure["source_modules"]


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_50_lines() -> None:
    long = {}
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if num_lines > MAX_FUNCTION_LINES:
                    long[f"{name}:{node.lineno} {node.name}"] = num_lines
    assert long == {}


def test_no_unfinished_work_is_marked_in_the_code() -> None:
    pattern = re.compile(rf"\b({'|'.join(BANNED_WORDS)})\b")
    found = {name: pattern.findall(path.read_text()) for name, path in FILES.items()}
    assert {name: words for name, words in found.items() if words} == {}


def test_nothing_is_called_utils_or_manager_or_base() -> None:
    files = [name for name in FILES if re.search(r"(^|/|_)(utils?|helpers?|misc)(\.py|/)", name)]
    classes = [
        f"{name} {node.name}"
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and re.search(r"Manager|^_?Base[A-Z]|Base$", node.name)
    ]
    assert files + classes == []


@pytest.mark.parametrize("name", ROOM_FILES)
def test_no_module_has_mutable_state(name: str) -> None:
    tree = ast.parse(FILES[name].read_text())
    mutable = set(_mutable_module_names(tree))
    not_constant = {n for n in mutable if not re.fullmatch(r"_?[A-Z][A-Z0-9_]*|__\w+__", n)}
    assert not_constant == set()
    assert {n for n in _changed_names(tree) if n in mutable} == set()
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))


def _mutable_module_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign):
            targets, value = [node.target], node.value
        else:
            continue
        if _is_mutable(value):
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _is_mutable(value: ast.expr | None) -> bool:
    displays = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else None
        name = value.func.id if isinstance(value.func, ast.Name) else name
        return name in MUTABLE_CALLS
    return isinstance(value, displays)


def _changed_names(tree: ast.Module) -> Iterator[str]:
    """Names with an item assigned or deleted, augmented, or a mutating method called."""
    for node in ast.walk(tree):
        target: ast.expr | None = None
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target = node.value
        elif isinstance(node, ast.AugAssign):
            target = node.target
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            target = node.func.value if node.func.attr in MUTATORS else None
        if isinstance(target, ast.Name):
            yield target.id


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def _pure_contract_modules() -> set[str]:
    return set(next(c for c in CONTRACTS if c["name"].startswith("Pure"))["source_modules"])


def test_pure_modules_reach_nothing_impure_through_others() -> None:
    graph = grimp.build_graph(*ROOMS, include_external_packages=True, cache_dir=None)
    pure = {m for room in _pure_contract_modules() for m in {room} | graph.find_descendants(room)}
    impure = {*IMPURE_MODULES, *IMPURE_PACKAGES} & graph.modules
    chains = [
        graph.find_shortest_chain(importer=module, imported=foreign)
        for module in sorted(pure)
        for foreign in sorted(impure)
    ]
    assert [chain for chain in chains if chain is not None] == []


def _modules_loaded_by(code: str) -> set[str]:
    """Top-level packages in a fresh interpreter after `code`."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


def test_the_device_loads_neither_torch_nor_transformers() -> None:
    modules = [
        _module(name)
        for name in ROOM_FILES
        if name.startswith("device_runtime/") and name != "device_runtime/engines/torch_engine.py"
    ]
    loaded = _modules_loaded_by("\n".join(f"import {module}" for module in modules))
    assert "device_runtime" in loaded
    assert loaded & {"torch", "transformers"} == set()


def test_the_command_line_starts_without_anything_heavy() -> None:
    loaded = _modules_loaded_by("from hat.cli import run\nassert run(['--help']) == 0")
    heavy = {"torch", "transformers", "onnx", "onnxruntime", "aiohttp", "numpy", "tokenizers"}
    assert loaded & heavy == set()


def _requirement_closure(name: str, extras: frozenset[str]) -> set[str]:
    """Every distribution that `name[extras]` brings, as far as they are installed here."""
    closure: set[str] = set()
    pending = [(name, extra) for extra in (extras or {""})]
    seen: set[tuple[str, str]] = set()
    while pending:
        dist, extra = pending.pop()
        if (dist, extra) in seen:
            continue
        seen.add((dist, extra))
        closure.add(canonicalize_name(dist))
        try:
            requirements = importlib.metadata.requires(dist) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                pending += [(requirement.name, wanted) for wanted in requirement.extras or {""}]
    return closure


def test_the_device_extra_brings_neither_torch_nor_transformers() -> None:
    closure = _requirement_closure("hat-serving", frozenset({"device"}))
    assert {"onnxruntime", "tokenizers", "aiohttp"} <= closure
    assert closure & {"torch", "transformers"} == set()
    assert "torch" in _requirement_closure("hat-serving", frozenset({"cloud"}))
