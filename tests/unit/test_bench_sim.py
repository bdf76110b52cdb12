"""The simulated cloud and devices: pipelines, balance, tables, and the same bytes every time."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from click.testing import CliRunner
from msgspec import structs

from bench.link.spec import LinkSpec, link_text
from bench.measures import accept_length
from bench.receipts import simulation_receipt
from bench.records import Cell, LinkRecord, Run, WorkloadRecord, read_run
from bench.report.marked import markers
from bench.sim.run import simulate
from bench.sim.scenario import Scenario
from bench.sim.settings import slow_links
from bench.sim.settings.calibrate import LikeError
from bench.sim.settings.hardware import A6000, VICUNA_7B, RooflineStep, device_times
from bench.sim.settings.large_models import requests_of
from bench.sim.settings.like import like_scenarios
from bench.sim.settings.like_table import lines, medians
from bench.sim.world.acceptance import AcceptanceTable, tree
from bench.sim.world.times import Overheads
from device_runtime.engines.engine import DraftLimits
from hat.commands.bench_sim import sim
from tests.support.bench_sim_scenarios import cloud, scenario, with_replicas

pytestmark = pytest.mark.slow

_RATHER_BUSY = tuple((0.002 * number, 100, 10) for number in range(12))


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for hash_seed in ("1", "2"):
        out = tmp_path / f"{hash_seed}.json"
        command = [sys.executable, "-m", "hat", "bench", "sim", "--scale", "--num-devices", "12"]
        small = ["--clouds", "2", "--loads", "2", "--duration", "16"]
        subprocess.run(
            [*command, *small, "--out", str(out)],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"},
        )
        written.append(out.read_bytes())
    assert written[0] == written[1]
    assert len(written[0]) > 10_000


def test_another_seed_gives_other_times() -> None:
    first, second = (simulate(scenario(seed=seed)) for seed in (0, 1))
    assert first.requests[0].emissions != second.requests[0].emissions


def test_a_pipeline_keeps_its_stages_busy() -> None:
    one = scenario("hat-no-speculation", _RATHER_BUSY, num_devices=12)
    ends = [last_end(with_replicas(one, 1, num_stages)) for num_stages in (1, 4)]
    assert ends[1] < ends[0]


def test_a_lone_request_gains_nothing_from_stages() -> None:
    one = scenario("u-shape")
    hand_overs_s = 3 * 0.0001
    alone, piped = (simulate(with_replicas(one, 1, n)).cloud_step_s for n in (1, 4))
    assert piped == pytest.approx([step_s + hand_overs_s for step_s in alone], abs=1e-8)


def last_end(one: Scenario) -> float:
    return max(r.arrival_s + r.emissions[-1][0] for r in simulate(one).requests)


def test_devices_are_shared_out_to_the_least_loaded_cloud() -> None:
    busy = scenario("u-shape", _RATHER_BUSY, num_devices=12)
    few, many = (len(simulate(with_replicas(busy, n, 1)).cloud_step_s) for n in (1, 3))
    # Three clouds batch less, so they take more steps in all, and each request is sooner done.
    assert many > few
    assert last_end(with_replicas(busy, 3, 1)) < last_end(with_replicas(busy, 1, 1))


def test_a_cloud_without_room_refuses_at_once_and_serves_the_others() -> None:
    one = replace(scenario("hat", _RATHER_BUSY, 12), cloud=cloud(capacity_tokens=250))
    served = [record for record in simulate(one).requests if record.error is None]
    refused = [record for record in simulate(one).requests if record.error == "unavailable"]
    assert len(served) + len(refused) == 12
    assert served
    assert [record.output_tokens for record in served] == [10] * len(served)
    assert max(record.seconds["total"] for record in refused) < 0.2


def test_a_prompt_that_can_never_fit_fails() -> None:
    one = replace(scenario("hat", ((0.0, 300, 5),)), cloud=cloud(capacity_tokens=250))
    (record,) = simulate(one).requests
    assert record.error == "unavailable"
    assert record.emissions == []


def test_drafts_that_are_always_right_bring_several_tokens_a_round() -> None:
    right = AcceptanceTable((1.0,), (1.0,), (1.0,))
    one = replace(scenario("hat", ((0.0, 20, 200),)), acceptance=right)
    length = accept_length(simulate(one).requests)
    assert length is not None
    assert length > 3


def test_parallel_drafting_is_used_where_drafts_are_right_and_the_way_is_long() -> None:
    right = AcceptanceTable((1.0,), (1.0,), (1.0,), bonus=(1.0, 0.0))
    link = replace(scenario().devices[0].link, delay_s=0.05)
    asked = ((0.0, 20, 300),)
    with_it, without = (
        last_end(replace(scenario(arm, asked, link=link), acceptance=right))
        for arm in ("hat-ahead", "hat-no-ahead")
    )
    assert with_it < without


def test_a_tree_costs_its_rows_and_brings_its_heads() -> None:
    one = scenario("u-medusa", ((0.0, 20, 400),))
    limits = DraftLimits(0.6, 20)
    one = replace(one, acceptance=tree(2.0, 4, "test"), draft_limits=limits)
    (record,) = simulate(one).requests
    # Of the last rounds' trees little is sent, since little is left to decide.
    assert len(record.drafted_by_position) == 20
    assert min(record.drafted_by_position) > record.rounds - 20
    length = accept_length([record])
    assert length == pytest.approx(2.0, abs=0.15)


def test_all_prompt_rows_come_back_only_where_asked_for() -> None:
    plain = scenario("u-shape", ((0.0, 500, 1),))
    all_rows = replace(plain, arm=replace(plain.arm, returns_all_rows=True))
    few, many = (simulate(one).requests[0].bytes_down for one in (plain, all_rows))
    assert many - few == 499 * 512


def test_a_timeline_has_all_four_lanes() -> None:
    (record,) = simulate(replace(scenario(), num_timelines=1)).requests
    assert {span.lane for span in record.spans} == {"device", "uplink", "cloud", "downlink"}
    assert all(span.start_s <= span.end_s for span in record.spans)


def test_a_roofline_step_is_bound_by_reading_then_by_multiplying() -> None:
    step = RooflineStep(A6000, VICUNA_7B, 30, 4)
    one, few, many = (step.seconds(n, 0.0, 0.0) for n in (1, 8, 4096))
    assert one == few
    # 12.1 GB at 576 GB/s, and a millisecond per stage.
    assert one == pytest.approx(0.025, abs=0.001)
    assert many > 5 * one
    assert device_times(A6000, VICUNA_7B).draft_step_s < one


def test_slower_modes_change_every_few_requests() -> None:
    asked = tuple((2.0 * number, 50, 4) for number in range(10))
    one = scenario("u-shape", asked)
    slow = replace(one, devices=tuple(replace(d, modes=(3.0, 3.5)) for d in one.devices))
    fast_s, slow_s = (
        [record.seconds["input"] for record in simulate(s).requests] for s in (one, slow)
    )
    assert all(late > 2 * soon for soon, late in zip(fast_s, slow_s, strict=True))


def test_requests_of_a_load_go_round_the_devices_within_the_context() -> None:
    workload = WorkloadRecord(
        name="cnn-dm",
        arrivals="poisson",
        num_devices=7,
        num_requests=50,
        max_output_tokens=1148,
        temperature=0.0,
        requests_per_s=4.0,
    )
    requests = requests_of(workload, 3)
    assert [request.device for request in requests[:8]] == [0, 1, 2, 3, 4, 5, 6, 0]
    assert max(request.prompt_tokens for request in requests) == 2048 - 1148


def as_live(scenarios: list[Scenario], kind: str) -> Run:
    """A run as if measured: simulated cells, told of as a link of this kind."""
    cells = []
    for one in scenarios:
        spec = one.devices[0].link
        link = LinkRecord(
            kind=kind,
            uplink_bytes_per_s=spec.uplink_bytes_per_s,
            downlink_bytes_per_s=spec.downlink_bytes_per_s,
            delay_s=spec.delay_s,
            measured_rtt_s={"min": 2 * spec.delay_s, "p50": 2 * spec.delay_s},
        )
        cell = simulate(one)
        cells.append(structs.replace(cell, link=link))
    return Run(kind="live", receipt=simulation_receipt(["test"], 0), cells=cells)


def closed(arm: str, prompt_tokens: int, link: LinkSpec) -> Scenario:
    """Requests one after another, of a made-up program with made-up overheads."""
    one = scenario(arm, ((0.0, prompt_tokens, 40),) * 6, link=link)
    overheads = Overheads(request_s=0.002, emission_s=0.0001, frame_s=0.001)
    return replace(
        one,
        workload=structs.replace(one.workload, arrivals="closed"),
        setting=f"{prompt_tokens} over {link_text(link)}",
        cloud=replace(one.cloud, overheads=overheads),
        devices=tuple(replace(device, overheads=overheads) for device in one.devices),
    )


def test_what_is_learned_on_loopback_gives_the_medians_of_a_shaped_link() -> None:
    loopback = [
        closed(arm, length, LinkSpec()) for arm in ("u-shape", "hat") for length in (20, 100, 300)
    ]
    shaped = [
        closed(arm, 200, LinkSpec(5e5, 1e6, delay_s=0.02)) for arm in ("u-shape", "hat-no-ahead")
    ]
    live, learned_from = as_live(shaped, "tcp"), [as_live(loopback, "loopback")]
    again = [simulate(one) for one in like_scenarios(live, learned_from, 3)]
    assert [len(cell.requests) for cell in again] == [36, 36]
    for measured, computed in zip(live.cells, again, strict=True):
        for of_live, of_sim in zip(medians([measured]), medians([computed]), strict=True):
            assert of_sim == pytest.approx(of_live, rel=0.15)
    assert len(lines(live.cells, again)) == 4


def test_a_setting_is_never_learned_from_itself() -> None:
    live = as_live([closed(arm, 20, LinkSpec(1e6, 1e6)) for arm in ("u-shape", "hat")], "tcp")
    with pytest.raises(LikeError, match="of other settings"):
        list(like_scenarios(live, [live], 0))


def test_a_link_with_troubles_that_are_not_simulated_is_refused() -> None:
    live = as_live([closed(arm, 20, LinkSpec(1e6, 1e6)) for arm in ("u-shape", "hat")], "tap")
    cells = [
        structs.replace(cell, link=structs.replace(cell.link, reorder=0.01)) for cell in live.cells
    ]
    with pytest.raises(LikeError, match="no overtaken packets"):
        list(like_scenarios(structs.replace(live, cells=cells), [live], 0))


def test_a_computed_cloud_takes_the_place_of_the_measured_one() -> None:
    links = (LinkSpec(1e6, 1e6), LinkSpec(2e6, 2e6))
    plans = [closed(arm, 20, link) for arm in ("u-shape", "hat") for link in links]
    live = as_live(plans, "tcp")
    with pytest.raises(LikeError, match="the sizes of its layers"):
        list(like_scenarios(live, [live], 0, "A6000"))
    sizes = {"intermediate_size": 64, "kv_size": 32}
    known = [
        structs.replace(cell, model=structs.replace(cell.model, **sizes)) for cell in live.cells
    ]
    live = structs.replace(live, cells=known)
    drafting = [one for one in like_scenarios(live, [live], 0, "A6000") if one.arm.has_drafts]
    assert all(one.setting.endswith(", cloud on A6000") for one in drafting)
    assert len({one.acceptance for one in drafting}) == 1
    step_s = median(simulate(drafting[0]).cloud_step_s)
    assert 0.001 < step_s < 0.0011


def test_an_8b_model_costs_its_prompts_bytes_and_a_round_trip_per_token(tmp_path: Path) -> None:
    into, out = tmp_path / "README.md", tmp_path / "8b.json"
    begin, end = markers(slow_links.MARK)
    into.write_text(f"{begin}\n{end}\n")
    command = ["--8b", "--out", str(out), "--table", str(into)]
    result = CliRunner().invoke(sim, command, catch_exceptions=False)
    assert result.exit_code == 0
    cells = {(cell.arm, cell.link.delay_s): cell for cell in read_run(out).cells}
    slow, fast = (cells[slow_links.PLAIN, delay_s] for delay_s in (0.04, 0.01))
    # Two thirds of 8.19 MB at 5 and at 100 Mbit/s.
    assert 8.7 < medians([slow])[0] < 9.7
    assert 0.43 < medians([fast])[0] < 0.75
    assert 0.08 < medians([slow])[1] < 0.15
    assert "| 5 Mbit/s up, 80 ms | 0.26 | 9.28 |" in into.read_text()


@pytest.mark.slow
def test_drafts_that_paid_for_a_small_model_are_cut_at_a_large_ones_prices() -> None:
    drafted = [263, 153, 94, 68, 36, 27, 26, 22, 11, 11, 11, 11, 10]
    accepted = [114, 45, 26, 19, 12, 11, 8, 7, 3, 3, 3, 3, 3]
    (cell,) = as_live([closed("hat", 20, LinkSpec(1e6, 1e6))], "tap").cells
    one = structs.replace(
        cell.requests[0],
        rounds=288,
        drafted_by_position=drafted,
        accepted_by_position=accepted,
        emissions=[(0.0, 288 + sum(accepted))],
    )
    slowest = slow_links.LINKS[0]
    by_arm = {
        each.arm.name: simulate(each)
        for each in slow_links.scenarios(0, [structs.replace(cell, requests=[one])])
        if each.setting.endswith(slowest)
        and each.arm.name in (slow_links.PLAIN, slow_links.MEASURED)
    }
    plain_s, drafted_s = (
        medians([by_arm[arm]])[1] for arm in (slow_links.PLAIN, slow_links.MEASURED)
    )
    assert drafted_s < 0.9 * plain_s
    tokens = [each.output_tokens / each.rounds for each in by_arm[slow_links.MEASURED].requests]
    assert 1.2 < sum(tokens) / len(tokens) < 1 + sum(accepted) / 288


def test_a_model_that_nothing_is_known_of_is_refused_by_name() -> None:
    known = as_live([closed(arm, 20, LinkSpec(1e6, 1e6)) for arm in ("u-shape", "hat")], "tcp")
    other = structs.replace(known.cells[0].model, fingerprint="another", name="another model")
    live = structs.replace(known, cells=[structs.replace(known.cells[0], model=other)])
    with pytest.raises(LikeError, match="another model"):
        list(like_scenarios(live, [known], 0))


def test_one_kind_of_simulation_is_asked_for_at_a_time(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out.json")]
    for flags in ([], ["--paper", "--scale"], ["--like", "missing.json"]):
        assert CliRunner().invoke(sim, [*flags, *out]).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def _scaled(tmp_path: Path, *flags: str) -> tuple[str, list[Cell]]:
    out = tmp_path / "scale.json"
    command = ["--scale", "--num-devices", "12", "--clouds", "1", *flags, "--out", str(out)]
    result = CliRunner().invoke(sim, command, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output, read_run(out).cells


def test_load_goes_on_for_the_asked_time_however_few_devices_there_are(tmp_path: Path) -> None:
    _, cells = _scaled(tmp_path, "--loads", "1,2", "--duration", "6")
    for cell, rate in zip(cells, (1.0, 2.0), strict=True):
        assert cell.steady is not None
        assert cell.steady.until_s >= 6
        seconds = cell.steady.until_s - cell.steady.warm_up_s
        assert len(cell.requests) == pytest.approx(rate * seconds, abs=4 * (rate * seconds) ** 0.5)


def test_a_point_that_did_not_settle_says_so(tmp_path: Path) -> None:
    output, (cell,) = _scaled(tmp_path, "--loads", "320", "--duration", "8")
    assert cell.steady is not None
    assert cell.steady.state == "growing"
    assert "not settled: the queue still grows by" in output
    assert "1 of 1, poisson 320/s, 1 cloud: hat" in output


@pytest.mark.parametrize("flags", [("--loads", "0"), ("--clouds", "1,x"), ("--loads", "")])
def test_loads_and_clouds_are_numbers_above_0(tmp_path: Path, flags: tuple[str, str]) -> None:
    result = CliRunner().invoke(sim, ["--scale", *flags, "--out", str(tmp_path / "out.json")])
    assert result.exit_code == 2
    assert "numbers above 0" in result.output


def test_an_arm_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out.json")]
    result = CliRunner().invoke(sim, ["--scale", "--arm", "u-boat", *out])
    assert result.exit_code == 2
    assert "hat-paper" in result.output


def test_the_papers_tables_name_every_arm(tmp_path: Path) -> None:
    out = tmp_path / "paper.json"
    result = CliRunner().invoke(
        sim, ["--paper", "--num-requests", "1", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0
    for name in ("u-shape+all-rows", "u-sarathi", "u-medusa", "hat-paper", "TBT SD+PC+PD"):
        assert name in result.output
    assert read_run(out).kind == "sim"
