"""Files for people and machines around the code: they load, and name what there is."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

from device_runtime.api.page.document import SCRIPTS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TEXTS = [ROOT / "README.md", *sorted(ROOT.glob("C*.md")), ROOT / ".github/pull_request_template.md"]

PAGE_FILES = ("page.html", "page.css", *SCRIPTS)

CALL = re.compile(r"\bmake ([a-z][a-z-]*)(?= |$|`|;)", re.MULTILINE)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def workflow_commands() -> list[str]:
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    return [step["run"] for step in steps if "run" in step]


def test_the_workflow_calls_what_the_gate_calls_and_only_targets_of_make() -> None:
    called = {target for command in workflow_commands() for target in CALL.findall(command)}
    assert all(command.startswith("make ") for command in workflow_commands())
    assert called <= make_targets()
    assert {*CALL.findall((ROOT / ".ci" / "run").read_text()), "test-exhaustive"} <= called


def test_the_workflow_tries_the_python_versions_that_the_package_names() -> None:
    classifiers = [text.rpartition(" :: ")[2] for text in PROJECT["project"]["classifiers"]]
    named = [text for text in classifiers if re.fullmatch(r"3\.\d+", text)]
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    assert any(name.endswith("-arm") for name in matrix["os"])


def test_texts_for_contributors_name_targets_that_exist() -> None:
    for path in TEXTS:
        code = "\n".join(re.findall(r"`[^`]+`|^    .+$", path.read_text(), re.MULTILINE))
        assert set(CALL.findall(code)) <= make_targets(), path.name


def test_issue_forms_have_a_name_and_questions() -> None:
    forms: list[dict[str, Any]] = [yaml.safe_load(path.read_text()) for path in FORMS]
    questions = [form for form in forms if "body" in form]
    assert len(questions) == len(forms) - 1
    for form in questions:
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len({*ids}) == len(ids) > 0


def test_hooks_come_from_the_projects_own_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [entry["repo"] for entry in hooks["repos"]] == ["local"]
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


def test_every_package_tells_type_checkers_that_it_is_typed() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [name for name in packages if not (ROOT / name / "py.typed").is_file()] == []


def test_the_wheel_has_no_files_but_code_pages_the_small_model_and_adapters() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    names = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    packed = [name for name in names if name.startswith(tuple(f"{p}/" for p in wheel["packages"]))]
    left_out = tuple(f"{folder}/" for folder in wheel["exclude"])
    kinds = (".py", "/py.typed", "bench/report/page.css", ".jinja")
    kinds += tuple(f"device_runtime/api/page/{name}" for name in PAGE_FILES)
    others = [name for name in packed if not name.startswith(left_out) and not name.endswith(kinds)]
    assert others == []
    assert {*wheel["force-include"]} == {
        "models/stories260k",
        "models/stories260k-adapter",
        "models/smollm2-135m-instruct-adapter",
    }
    assert all(any(name.startswith(folder) for name in packed) for folder in left_out)
