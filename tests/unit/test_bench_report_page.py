import hashlib
import re
from pathlib import Path

import msgspec
import pytest

from bench.measures import output_sha256
from bench.records import Cell, Comparison, Run, write_run
from bench.report.figures import Limits, ReportError
from bench.report.page import Written, write_report
from tests.support.bench_runs import (
    RANDOM_MODEL,
    load_sweep,
    made_up_cell,
    made_up_receipt,
    made_up_request,
    made_up_run,
)
from tests.support.pages import Page, read_page

pytestmark = pytest.mark.slow

_PNG = b"\x89PNG\r\n\x1a\n"


def _written(folder: Path, *runs: Run, baseline: str | None = None) -> Written:
    paths = [folder / f"{number}.json" for number in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        write_run(path, run)
    return write_report(paths, folder / "report", baseline, Limits())


def _page(folder: Path, *cells: Cell) -> Page:
    return read_page(_written(folder, made_up_run(cells=list(cells))).page.read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A report with everything in it: live, simulated, under load, beside the paper."""
    folder = tmp_path_factory.mktemp("report")
    comparison = Comparison(name="hat", metric="TTFT (s)", paper=0.384, ours=0.4)
    sim = made_up_run(seed=1, arms=("u-shape", "hat"), kind="sim", comparisons=[comparison])
    load = load_sweep(replicas=(1, 8))
    load = msgspec.structs.replace(load, cells=[c for c in load.cells if c.arm == "hat"])
    elsewhere = made_up_cell(setting="elsewhere", requests=[made_up_request([], error="timeout")])
    live = msgspec.structs.replace(made_up_run(), cells=[*made_up_run().cells, elsewhere])
    return _written(folder, live, sim, load)


@pytest.fixture(scope="module")
def page(whole: Written) -> Page:
    return read_page(whole.page.read_text())


def test_the_page_asks_nothing_of_the_network(whole: Written, page: Page) -> None:
    assert page.loads == []
    assert {link for link in page.links if not link.startswith("#")} == set()
    assert {"link", "img", "iframe", "object", "base"}.isdisjoint(page.tags)
    assert re.findall(r"https?://|@import|url\((?!#)", whole.page.read_text()) == []


def test_every_link_has_one_target(page: Page) -> None:
    anchors = [name for name in page.ids if not re.fullmatch(r"[mpC][\w]{8,}", name)]
    assert len(anchors) == len(set(anchors))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_every_row_of_the_table_links_to_its_receipt(whole: Written) -> None:
    text = whole.page.read_text()
    table, *_ = re.findall(r'<table class="numbers">.*?</table>', text, re.DOTALL)
    rows = re.findall(r'<tr><th scope="row"><a href="#receipt-(\d+)">', table)
    assert len(rows) == len(set(rows)) == table.count('<tr><th scope="row">') > 6


def test_receipts_say_where_a_number_comes_from(whole: Written, page: Page) -> None:
    receipt = page.text[page.text.rindex("Receipts") :]
    run = made_up_run()
    for expected in (
        "hat bench live --quick",
        "0123456789ab",
        "Made-up processor",
        "tap, 10 Mbit/s up, 20 Mbit/s down, round trip 40 ms",
        "9.76 Mbit/s up, 19.5 Mbit/s down, round trip min 40.2, p50 40.9, p90 43.1 ms",
        "storybook-7m, 8 layers (1 input, 0 output), hidden 384, float32, real weights",
        output_sha256(run.cells[0].requests)[:16],
        hashlib.sha256((whole.page.parents[1] / "0.json").read_bytes()).hexdigest(),
    ):
        assert expected in receipt


def test_every_part_is_there(page: Page) -> None:
    for title in (
        "First piece of text, and time between tokens",
        "Where a round's time goes",
        "One request, lane by lane",
        "Across settings",
        "Setting by setting",
        "Beside the paper",
        "Receipts",
    ):
        assert title in page.text
    assert "24 of 24" in page.text
    assert "greedy answers with the text of the first arm" in page.text


def test_three_figures_stand_at_the_top(whole: Written) -> None:
    head = whole.page.read_text().partition('<section class="cautions"')[0]
    found = re.findall(r"<div><b class=\"\w*\">(.*?)</b>(.*?)<small>(.*?)</small>", head)
    assert [about for _, about, _ in found] == [
        "TTFT, median: hat over u-shape, live",
        "TBT, mean: hat over u-shape, live",
        "greedy answers with the text of the first arm",
    ]
    assert all(re.fullmatch(r"[01]\.\d\d\u202f\u00d7", value) for value, _, _ in found[:2])


def test_charts_are_there_in_the_pages_ink_and_as_files(whole: Written, page: Page) -> None:
    assert [path.stem for path in whole.pictures] == ["arms", "rounds", "timeline", "sweeps"]
    assert page.tags.count("svg") == len(whole.pictures)
    assert all(path.read_bytes().startswith(_PNG) for path in whole.pictures)
    charts = "".join(re.findall(r"<svg.*?</svg>", whole.page.read_text(), re.DOTALL))
    assert "#000000" not in charts
    assert "stroke: currentColor" in charts


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run = made_up_run(arms=("hat",))
    pages = [_written(folder, run) for folder in (first, second)]
    texts = [written.page.read_text() for written in pages]
    assert texts[0] == texts[1]
    assert [path.read_bytes() for path in pages[0].pictures] == [
        path.read_bytes() for path in pages[1].pictures
    ]


def test_a_different_text_is_red_at_the_top(tmp_path: Path) -> None:
    cells = [
        made_up_cell(arm=arm, requests=[made_up_request([(0.1, 1)], output_sha256=arm)])
        for arm in ("cloud-only", "hat")
    ]
    written = _written(tmp_path, made_up_run(cells=cells))
    assert written.num_wrong == 1
    head = written.page.read_text().partition('<h2 id="settings"')[0]
    assert '<b class="bad">0 of 1</b>greedy answers' in head
    assert '<li class="bad">hat and cloud-only gave different texts' in head


def test_what_is_missing_is_left_out_without_an_error(tmp_path: Path) -> None:
    cells = [
        made_up_cell(arm="cloud-only", requests=[]),
        made_up_cell(arm="u-shape", requests=[made_up_request([], error="timeout")]),
        made_up_cell(arm="hat", requests=[made_up_request([(0.2, 3)])]),
    ]
    page = _page(tmp_path, *cells)
    assert "cloud-only has no requests" in page.text
    assert "0 +1 failed" in page.text
    assert "200" in page.text


def test_one_arm_alone_has_no_ratios_and_nothing_to_compare(tmp_path: Path) -> None:
    page = _page(tmp_path, made_up_cell())
    assert "÷" not in page.text
    assert "greedy answers with" not in page.text


def test_a_run_without_cells_says_so(tmp_path: Path) -> None:
    assert "The files hold no cells." in _page(tmp_path).text


def test_acceptance_of_random_weights_is_not_shown(tmp_path: Path) -> None:
    request = made_up_request([(0.1, 1), (0.2, 4)], rounds=1, drafted=[1, 1], accepted=[1, 1])
    page = _page(tmp_path, made_up_cell(model=RANDOM_MODEL, requests=[request]))
    assert "random weights: not shown" in page.text
    assert "3.00" not in page.text


def test_names_from_files_are_text_and_nothing_else(tmp_path: Path) -> None:
    nasty = '<script>alert("x")</script>$_{1}$'
    run = made_up_run(
        cells=[made_up_cell(setting=nasty, arm=nasty, notes=[nasty])],
        receipt=made_up_receipt(commit=nasty, command=[nasty]),
    )
    text = _written(tmp_path, run).page.read_text()
    assert text.count("<script>") == 0
    assert nasty in read_page(text).text


def test_a_baseline_that_was_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="expected a baseline among hat, got u-shape"):
        _written(tmp_path, made_up_run(arms=("hat",)), baseline="u-shape")
    assert not (tmp_path / "report").exists()
