from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from bench.arms import NO_ADAPTER
from bench.records import CLOUD_ON, Cell, Run, write_run
from bench.report.figures import ReportError
from bench.report.formats import NONE
from bench.report.groups import group_cells, read_sources
from bench.report.links import links_tables, same_model
from bench.report.marked import markers
from bench.report.readme_table import MARK, write_chart, write_readme, write_tables
from tests.support.bench_runs import (
    LINK,
    WORKLOAD,
    made_up_cell,
    made_up_receipt,
    made_up_request,
    made_up_run,
    sim_grid,
)

BEGIN, END = markers(MARK)


def _table(folder: Path, *runs: Run) -> str:
    paths = [folder / f"{number}.json" for number in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        write_run(path, run)
    readme = folder / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_tables(paths, readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text
    return text


def test_the_table_has_a_line_per_arm_and_says_where_it_comes_from(tmp_path: Path) -> None:
    requests = [made_up_request([(0.3, 1), (0.4, 2)], rounds=1, drafted=[1], accepted=[1])]
    slow = [made_up_request([(0.6, 1), (0.7, 1), (0.8, 1)])]
    cells = [made_up_cell(requests=requests), made_up_cell(arm="u-shape", requests=slow)]
    text = _table(tmp_path, made_up_run(cells=cells))
    assert f"| `u-shape` | 600 / 600 | 1.00 | 100 / 100 | {NONE} | reference |\n" in text
    assert "| `hat` | 300 / 300 | 0.50 | 50.0 / 50.0 | 2.00 | same |\n" in text
    assert "**storybook-7m**, tinystories x 24, up=10mbit,down=20mbit,rtt=40ms (link: tap)" in text
    origin = "Measured by `hat bench live --quick`, seed 0, on Made-up processor, 2 cores, "
    assert f"{origin}load average 0.2 before, commit 0123456789ab.\n" in text


def test_rows_have_as_many_cells_as_their_head(tmp_path: Path) -> None:
    other = made_up_run(cells=[made_up_cell(setting="other", arm="device-only", requests=[])])
    rows = [line for line in _table(tmp_path, made_up_run(), other).splitlines() if "|" in line]
    assert {row.count("|") for row in rows[:5]} == {7}
    assert {row.count("|") for row in rows[5:]} == {6}
    assert rows[-1] == f"| storybook-7m, other{4 * f' | {NONE}'} |"


def test_what_differs_and_what_failed_stands_in_the_table(tmp_path: Path) -> None:
    wrong = made_up_request([(0.3, 1)], output_sha256="other")
    lost = made_up_request([], number=1, error="cloud_lost")
    cells = [made_up_cell(arm="u-shape"), made_up_cell(requests=[wrong, lost])]
    assert "**1 of 1 differ**; 1 failed |" in _table(tmp_path, made_up_run(cells=cells))


def test_simulated_settings_are_left_out_beside_live_ones(tmp_path: Path) -> None:
    live = made_up_run(arms=("u-shape", "hat"))
    sim = sim_grid(made_up_run(arms=("u-sarathi",)))
    assert "u-sarathi" not in _table(tmp_path, live, sim)
    assert "u-sarathi" in _table(tmp_path, sim)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}"])
def test_a_file_without_both_markers_stays_as_it_is(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    write_run(tmp_path / "0.json", made_up_run())
    with pytest.raises(ReportError, match=r"README\.md: expected one line <!-- bench:begin -->"):
        write_tables([tmp_path / "0.json"], readme)
    assert readme.read_text() == text


def test_files_without_cells_give_no_table(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="expected results, got files without cells"):
        _table(tmp_path, made_up_run(cells=[]))


SLOW = msgspec.structs.replace(LINK, uplink_bytes_per_s=625_000, delay_s=0.04)
CHAT = msgspec.structs.replace(WORKLOAD, name="spec-bench", is_chat=True)


def _chat_cell(category: str, **changed: object) -> Cell:
    request = made_up_request(
        [(0.5, 1), (0.6, 2), (0.7, 1)],
        rounds=2,
        drafted=[2],
        accepted=[1],
        category=category,
        seconds={"total": 1.0, "cloud_compute": 0.75},
    )
    fields = {"workload": CHAT, "requests": [request], "notes": [NO_ADAPTER]}
    return made_up_cell(**(fields | changed))


def _links_runs() -> tuple[Run, Run]:
    own = msgspec.structs.replace(CHAT, temperature=0.2, top_p=0.9)
    cells = [
        _chat_cell("qa", setting="near"),
        _chat_cell("qa", setting="near", arm="u-shape"),
        _chat_cell("rag", setting="far", link=SLOW),
        _chat_cell("qa", setting="near, sampled", workload=own),
    ]
    receipt = made_up_receipt(hardware="Old processor without AVX-512")
    gpu = _chat_cell("", setting=f"near{CLOUD_ON}A6000", arm="u-shape")
    return made_up_run(cells=cells, receipt=receipt), made_up_run(kind="sim", cells=[gpu])


def _written(folder: Path) -> list[Path]:
    paths = [folder / "live.json", folder / "sim.json"]
    for path, run in zip(paths, _links_runs(), strict=True):
        write_run(path, run)
    return paths


def test_one_model_stands_link_by_link_with_a_computed_cloud_beside(tmp_path: Path) -> None:
    sources = read_sources(_written(tmp_path))
    groups = group_cells(sources)
    assert [group.like.setting for group in same_model(groups)] == ["near", "far"]
    text = links_tables(sources, groups)
    near = "| 10 / 20 Mbit/s, 40 ms | `{}` | 500 | 66.7 | 15.0 | 1.50 | 75\u202f% | {} | {} |"
    assert near.format("hat", NONE, "same") in text
    assert near.format("u-shape", "500 / 66.7", "reference") in text
    assert "| 5 / 20 Mbit/s, 80 ms | `hat` | 500 |" in text
    assert "This processor has no AVX-512" in text
    assert "is **simulated**: " in text
    assert "**there is no adapter for this model**" in text


def test_acceptance_stands_by_category_greedy_and_sampled(tmp_path: Path) -> None:
    sources = read_sources(_written(tmp_path))
    text = links_tables(sources, group_cells(sources))
    assert "sampled: temperature 0.2, top_p 0.9." in text
    assert "| qa | 16 | 1 | 1.00 | 50\u202f% | 1.50 | 1 | 1.50 |" in text


def test_the_chart_is_a_picture_of_its_own_for_light_and_dark_pages(tmp_path: Path) -> None:
    chart, readme = tmp_path / "docs" / "links.svg", tmp_path / "README.md"
    chart.parent.mkdir()
    readme.write_text(f"{BEGIN}\n{END}\n")
    paths = _written(tmp_path)
    write_chart(paths, chart)
    write_readme(paths, readme, chart)
    svg = chart.read_text()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "@media (prefers-color-scheme:dark)" in svg
    assert ">u-shape<" in svg
    assert "](docs/links.svg)" in readme.read_text()
    assert "`hat` drafts out of its own text: there is no adapter for this model." in (
        readme.read_text()
    )
    assert "hat 0.50 s and 15.0 tokens/s" in readme.read_text()


def test_a_page_with_a_place_for_links_gets_both_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    first, last = markers("bench-links")
    page.write_text(f"{first}\n{last}\n{BEGIN}\n{END}\n")
    write_tables(_written(tmp_path), page)
    assert page.read_text().index("`u-shape`") < page.read_text().index(BEGIN)


def test_results_without_a_link_are_no_links(tmp_path: Path) -> None:
    write_run(tmp_path / "sim.json", _links_runs()[1])
    with pytest.raises(ReportError, match="expected a live result over a link"):
        write_chart([tmp_path / "sim.json"], tmp_path / "links.svg")
