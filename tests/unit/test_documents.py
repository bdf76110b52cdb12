"""What the documents name exists: files, folders, links, headings, modules and classes."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import pytest

from hat.rooms import ROOMS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")} - {ROOT / "CHANGELOG.md"})
PACKAGES = (*ROOMS, "hat", "tests", "deploy")

TICKED = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?:[a-z_][\w.-]*/)+[\w.-]*|[\w-]+\.(?:py|md|sh|cfg|conf|yaml|yml|toml)")
MODULE = re.compile(r"python3? -m ([\w.]+)")
DOTTED = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.(?!json\b|sig\b|example\b)\w+)+")
CLASS = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+(?:\.\w+)?")

MADE_BY_PROGRAMS = ("cloud/", "device/")
"""Folders of a bundle."""
FOREIGN_PART = re.compile(r"^## What phones home.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
"""A table of files of other projects."""


def tracked() -> list[str]:
    names = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.check_output(names, cwd=ROOT, text=True).splitlines()


FILES = tracked()
FOLDERS = {str(parent) for name in FILES for parent in PurePosixPath(name).parents}
CODE = "\n".join((ROOT / name).read_text() for name in FILES if name.endswith(".py"))


NO_PATHS = {"text/plain"}


def exists(path: str) -> bool:
    """Whether a path, or its end, is that of a file or folder of the repository."""
    wanted = f"/{path.rstrip('/')}"
    return any(f"/{name}".endswith(wanted) for name in (*FILES, *FOLDERS))


def ticked(document: Path) -> Iterator[str]:
    for text in TICKED.findall(FOREIGN_PART.sub("", document.read_text())):
        yield from text.split()


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def headings(document: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_between_pages_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(document.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_and_folders_that_a_page_names_exist(document: Path) -> None:
    paths = [text for text in ticked(document) if PATH.fullmatch(text) and text not in NO_PATHS]
    own = [path for path in paths if not path.startswith(MADE_BY_PROGRAMS)]
    assert [path for path in own if not exists(path)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_modules_that_a_page_names_exist(document: Path) -> None:
    text = document.read_text()
    modules = [name for name in MODULE.findall(text) if name.partition(".")[0] in PACKAGES]
    for name in modules:
        path = name.replace(".", "/")
        assert {f"{path}.py", f"{path}/__main__.py"} & {*FILES}, name
    for dotted in (word for word in ticked(document) if DOTTED.fullmatch(word)):
        assert is_in_code(dotted), dotted


def is_in_code(dotted: str) -> bool:
    """Whether a name such as `room.module.Class.method` is a module, or defined in one."""
    path = dotted.replace(".", "/")
    if exists(path) or exists(f"{path}.py"):
        return True
    module, _, name = dotted.rpartition(".")
    file = ROOT / f"{module.replace('.', '/')}.py"
    if file.is_file():
        return re.search(rf"\b{name}\b", file.read_text()) is not None
    return "." in module and is_in_code(module)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_classes_that_a_page_names_exist(document: Path) -> None:
    names = {text for text in ticked(document) if CLASS.fullmatch(text)}
    words = {word for name in names for word in name.split(".")}
    assert {word for word in words if not re.search(rf"\b{word}\b", CODE)} == set()


def test_the_annotated_tree_has_every_folder_of_code_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text[text.index("## The tree") :].split("```")[1]
    shown: list[str] = []
    path: list[str] = []
    for line in tree.splitlines():
        if found := re.fullmatch(r"( *)([\w.]+)/  +\S.*", line):
            path[len(found[1]) // 2 :] = [found[2]]
            shown.append("/".join(path))
    code = {name.rpartition("/")[0] for name in FILES if name.endswith("/__init__.py")}
    code = {folder for folder in code if not folder.startswith("tests/")}
    assert [name for name in shown if name not in FOLDERS] == []
    assert code - {*shown} == set()


def test_the_recording_is_a_small_picture_that_runs_and_loads_nothing() -> None:
    picture = ROOT / "docs" / "images" / "recovery.svg"
    root = ElementTree.parse(picture).getroot()
    assert picture.stat().st_size < 200_000
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "style", "rect", "text"}
    assert not re.search(r"url\(|@import|href", picture.read_text())
    assert root.get("id") == "still"
    assert '"docs/images/recovery.svg#still"' in (ROOT / "README.md").read_text()
