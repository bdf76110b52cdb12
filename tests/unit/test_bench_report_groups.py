from pathlib import Path

import msgspec
import pytest

from bench.records import (
    UNFINISHED,
    Cell,
    Comparison,
    RequestRecord,
    Run,
    SteadyRecord,
    write_run,
)
from bench.report.cautions import cautions
from bench.report.figures import (
    Limits,
    agreements,
    find_baseline,
    mean_tbt_s,
    median_ttft_s,
    paired_ratios,
    served_well,
)
from bench.report.formats import NONE
from bench.report.groups import Group, group_cells, read_sources
from bench.report.sweeps import LOAD, PROMPT, ROUND_TRIP, panels, sweeps_chart
from bench.report.table import table
from tests.support.bench_runs import (
    LINK,
    RANDOM_MODEL,
    WORKLOAD,
    live_grid,
    load_sweep,
    made_up_cell,
    made_up_receipt,
    made_up_request,
    made_up_run,
    sim_grid,
)

pytestmark = pytest.mark.slow


def _groups(folder: Path, *runs: Run) -> list[Group]:
    return group_cells(read_sources(_files(folder, *runs)))


def _files(folder: Path, *runs: Run) -> list[Path]:
    paths = [folder / f"{number}.json" for number in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        write_run(path, run)
    return paths


def _run(*cells: Cell, kind: str = "live") -> Run:
    return made_up_run(cells=list(cells), kind=kind)


def _answer(number: int, first_s: float, text: str = "text") -> RequestRecord:
    emissions = [(first_s, 1), (first_s + 0.1, 1)]
    return made_up_request(emissions, number=number, output_sha256=text)


def _cautions(folder: Path, *runs: Run) -> list[str]:
    sources = read_sources(_files(folder, *runs))
    return [caution.text for caution in cautions(sources, group_cells(sources))]


def test_arms_of_a_setting_come_together_in_their_order_with_all_repeats(tmp_path: Path) -> None:
    (group,) = _groups(tmp_path, made_up_run(arms=("hat-new", "hat", "cloud-only", "u-shape")))
    assert [result.arm for result in group.arms] == ["cloud-only", "u-shape", "hat", "hat-new"]
    assert [len(result.cells) for result in group.arms] == [2, 2, 2, 2]


def test_settings_differ_by_model_replicas_and_link_and_live_ones_come_first(
    tmp_path: Path,
) -> None:
    sim = _run(made_up_cell(), made_up_cell(num_replicas=2), kind="sim")
    tcp = msgspec.structs.replace(LINK, kind="tcp")
    live = _run(made_up_cell(), made_up_cell(model=RANDOM_MODEL), made_up_cell(link=tcp))
    groups = _groups(tmp_path, sim, live)
    assert [group.kind for group in groups] == ["live", "live", "live", "sim", "sim"]
    receipts = [result.number for group in groups for result in group.arms]
    assert receipts == [1, 2, 3, 4, 5]


def test_a_file_given_twice_counts_once(tmp_path: Path) -> None:
    path = _files(tmp_path, made_up_run())[0]
    assert len(read_sources([path, path])) == 1


def test_failed_requests_count_against_the_limits_and_nowhere_else(tmp_path: Path) -> None:
    failed = made_up_request([(0.1, 1)], number=1, error="cloud_lost")
    silent = made_up_request([], number=2)
    (group,) = _groups(tmp_path, _run(made_up_cell(requests=[_answer(0, 0.3), failed, silent])))
    [result] = group.arms
    assert (len(result.requests), result.num_failed) == (3, 2)
    assert result.ttft is not None
    assert result.ttft.p99 == 0.3
    served = served_well(result, Limits(0.5, 0.2))
    assert served is not None
    assert served[0] == pytest.approx(1 / 3)


def test_a_cell_without_requests_has_no_figures(tmp_path: Path) -> None:
    (group,) = _groups(tmp_path, _run(made_up_cell(requests=[])))
    [result] = group.arms
    assert (result.ttft, result.tbt, served_well(result, Limits())) == (None,) * 3


def test_random_weights_give_no_acceptance(tmp_path: Path) -> None:
    request = made_up_request([(0.1, 1), (0.2, 2)], rounds=1, drafted=[1], accepted=[1])
    for model, expected in ((made_up_cell().model, [1.0]), (RANDOM_MODEL, [])):
        (group,) = _groups(tmp_path, _run(made_up_cell(model=model, requests=[request])))
        [result] = group.arms
        assert result.acceptance == expected
        assert (result.accept_length is None) == (expected == [])


def test_ratios_are_of_the_same_pass_and_of_requests_that_both_answered(tmp_path: Path) -> None:
    lost = made_up_request([], number=1, error="cloud_lost")
    base = [[_answer(0, 1.0), _answer(1, 9.0)], [_answer(0, 2.0), _answer(1, 2.0)]]
    ours = [[_answer(0, 0.5), lost], [_answer(0, 0.5), _answer(1, 0.5)]]
    cells = [
        made_up_cell(arm=arm, repeat=repeat, requests=requests)
        for arm, passes in (("u-shape", base), ("hat", ours))
        for repeat, requests in enumerate(passes)
    ]
    (group,) = _groups(tmp_path, _run(*cells, made_up_cell(arm="hat", repeat=7)))
    baseline, result = group.arms
    assert paired_ratios(result, baseline, median_ttft_s) == [0.5, 0.25]
    assert paired_ratios(result, baseline, mean_tbt_s) == pytest.approx([1, 1])


def test_without_a_common_pass_there_is_no_ratio(tmp_path: Path) -> None:
    cells = (made_up_cell(arm="u-shape", repeat=0), made_up_cell(arm="hat", repeat=1))
    (group,) = _groups(tmp_path, _run(*cells))
    assert paired_ratios(group.arms[1], group.arms[0], median_ttft_s) == []
    assert paired_ratios(group.arms[1], None, median_ttft_s) == []


def test_the_usual_baseline_is_the_split_without_the_method(tmp_path: Path) -> None:
    assert find_baseline(_groups(tmp_path, made_up_run()), None) == "u-shape"
    without = made_up_run(arms=("cloud-only", "hat"))
    assert find_baseline(_groups(tmp_path, without), None) == "cloud-only"
    assert find_baseline(_groups(tmp_path, made_up_run(arms=("hat",))), None) is None


def test_greedy_answers_are_compared_request_by_request(tmp_path: Path) -> None:
    first = made_up_cell(arm="cloud-only", requests=[_answer(0, 1, "a"), _answer(1, 1, "b")])
    second = made_up_cell(arm="hat", requests=[_answer(1, 1, "b"), _answer(0, 1, "other")])
    (group,) = _groups(tmp_path, _run(first, second))
    found = agreements(group)
    assert list(found) == ["hat"]
    assert (found["hat"].reference, found["hat"].num_compared) == ("cloud-only", 2)
    assert found["hat"].num_different == 1
    (text,) = _cautions(tmp_path, _run(first, second))
    assert text.startswith("hat and cloud-only gave different texts to 1 of 2 requests")


def test_sampled_answers_simulated_and_failed_ones_are_not_compared(tmp_path: Path) -> None:
    sampled = msgspec.structs.replace(WORKLOAD, temperature=0.8)
    cells = [made_up_cell(arm=arm, workload=sampled) for arm in ("cloud-only", "hat")]
    assert agreements(_groups(tmp_path, _run(*cells))[0]) == {}
    assert agreements(_groups(tmp_path, made_up_run(kind="sim"))[0]) == {}
    lost = made_up_request([(0.1, 1)], output_sha256="half", error="cloud_lost")
    failed = made_up_cell(arm="hat", requests=[lost])
    assert agreements(_groups(tmp_path, _run(made_up_cell(arm="cloud-only"), failed))[0]) == {}


def test_simulated_settings_stand_beside_live_ones(tmp_path: Path) -> None:
    cell = made_up_cell(requests=[_answer(0, 1.0)])
    twin = made_up_cell(requests=[_answer(0, 1.2)], notes=["no loss", "no loss"])
    other = made_up_cell(setting="elsewhere")
    groups = _groups(tmp_path, _run(cell), _run(twin, other, kind="sim"))
    rows = table(groups, None, Limits())
    simulated = [(rows[n]["simulated"].text, rows[n]["simulated"].mark) for n in (1, 2)]
    assert simulated == [("+20\u202f% · +0\u202f%", "bad"), (NONE, "")]


def test_figures_far_from_the_papers_need_an_explanation(tmp_path: Path) -> None:
    comparisons = [
        Comparison(name="hat", metric="TTFT", paper=1.0, ours=1.1),
        Comparison(name="hat", metric="TTFT", paper=1.0, ours=1.3, note="another GPU"),
        Comparison(name="hat", metric="TTFT", paper=1.0, ours=0.5),
        Comparison(name="hat", metric="none", paper=0.0, ours=0.5, note="not in the paper"),
    ]
    run = msgspec.structs.replace(made_up_run(kind="sim"), comparisons=comparisons)
    assert [each.is_far_off for each in comparisons] == [False, True, True, True]
    assert [each.ratio for each in comparisons] == [1.1, 1.3, 0.5, None]
    texts = _cautions(tmp_path, run)
    assert texts == ["Far from the paper's figures without an explanation: 1."]


def test_a_clean_run_of_real_weights_needs_no_caution(tmp_path: Path) -> None:
    assert _cautions(tmp_path, made_up_run()) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"commit": "0123456789ab-dirty"}, "changes that are not in the commit."),
        ({"commit": "not a repository"}, "the commit is not known"),
        ({"load_average": 1.4, "num_cores": 2}, "other programs ran at the same time"),
    ],
)
def test_a_doubtful_receipt_is_told(
    tmp_path: Path, changed: dict[str, object], expected: str
) -> None:
    (text,) = _cautions(tmp_path, made_up_run(receipt=made_up_receipt(**changed)))
    assert expected in text


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"kind": "tcp"}, "hides TCP's own dynamics"),
        ({"kind": "loopback"}, "there is no link to speak of"),
        ({"measured_uplink_bytes_per_s": 0.9e6}, "uplink 7.2 instead of 10 Mbit/s"),
    ],
)
def test_a_doubtful_link_is_told(tmp_path: Path, changed: dict[str, object], expected: str) -> None:
    link = msgspec.structs.replace(LINK, **changed)
    (text,) = _cautions(tmp_path, _run(made_up_cell(link=link)))
    assert expected in text


def test_what_failed_and_what_is_empty_is_told_first(tmp_path: Path) -> None:
    failed = made_up_cell(requests=[_answer(0, 1), made_up_request([], number=1, error="timeout")])
    random = made_up_cell(model=RANDOM_MODEL, requests=[])
    first, second, third = _cautions(tmp_path, _run(random, failed))
    assert first.startswith("hat has no requests at ")
    assert second.startswith("1 of 2 requests of hat failed at ")
    assert second.endswith(": timeout.")
    assert third.startswith("random-110m: random weights.")
    simulated = _run(made_up_cell(model=RANDOM_MODEL), kind="sim")
    (text,) = _cautions(tmp_path, simulated)
    assert text.startswith("random-110m: simulated without weights.")


UNSETTLED = SteadyRecord(
    state="growing",
    warm_up_s=20.0,
    until_s=40.0,
    growth_per_s=43.21,
    growth_error_per_s=1.0,
    backlog=900,
)


def test_a_run_that_did_not_settle_is_told_before_all_and_its_cut_is_no_failure(
    tmp_path: Path,
) -> None:
    requests = [made_up_request([(0.3, 1), (0.4, 2)]), made_up_request([], error=UNFINISHED)]
    (text,) = _cautions(tmp_path, _run(made_up_cell(requests=requests, steady=UNSETTLED)))
    assert text.startswith("hat at storybook-7m, tinystories x 24")
    assert "not settled: the queue still grows by 43.2 requests/s after 40 s." in text
    settled = msgspec.structs.replace(UNSETTLED, state="settled")
    assert _cautions(tmp_path, _run(made_up_cell(steady=settled))) == []


def test_a_chart_under_load_marks_what_did_not_settle(tmp_path: Path) -> None:
    sweep = load_sweep(replicas=(1,))
    captions = []
    for steady in (None, UNSETTLED):
        cells = [msgspec.structs.replace(cell, steady=steady) for cell in sweep.cells]
        groups = _groups(tmp_path, msgspec.structs.replace(sweep, cells=cells))
        chart = sweeps_chart(groups, Limits())
        assert chart is not None
        captions.append(("did not settle" in chart.caption, "not settled" in chart.svg))
    assert captions == [(False, False), (True, True)]


def test_files_of_different_commits_are_told(tmp_path: Path) -> None:
    later = made_up_run(seed=1, receipt=made_up_receipt(commit="ba9876543210"))
    assert _cautions(tmp_path, made_up_run(), later) == [
        "The files were made by different commits."
    ]


def test_load_curves_have_a_line_per_number_of_replicas(tmp_path: Path) -> None:
    groups = _groups(tmp_path, load_sweep(replicas=(2, 1)))
    for sweep in LOAD:
        (found,) = panels(groups, sweep, Limits())
        expected = [("u-shape", 1), ("u-shape", 2), ("hat", 1), ("hat", 2)]
        assert [(line.arm, line.num_replicas) for line in found.lines] == expected
        assert [x for x, _ in found.lines[0].points] == [5, 10, 20, 40, 60, 80, 120, 160]
    assert panels(groups[:3], LOAD[0], Limits()) == []


def test_curves_over_prompt_and_round_trip_keep_all_else_the_same(tmp_path: Path) -> None:
    groups = _groups(tmp_path, live_grid(repeats=1))
    prompts = panels(groups, PROMPT, Limits())
    assert [len(found.groups) for found in prompts] == [1] * 12
    trips = panels(groups, ROUND_TRIP, Limits())
    assert [len(found.groups) for found in trips] == [3] * 4
    for line in trips[0].lines:
        assert [rtt_ms for rtt_ms, _ in line.points] == pytest.approx([10.9, 40.9, 100.9])


def test_simulated_round_trips_are_those_asked_for(tmp_path: Path) -> None:
    groups = _groups(tmp_path, sim_grid(live_grid(repeats=1)))
    line = panels(groups, ROUND_TRIP, Limits())[0].lines[0]
    assert [rtt_ms for rtt_ms, _ in line.points] == pytest.approx([10, 40, 100])
