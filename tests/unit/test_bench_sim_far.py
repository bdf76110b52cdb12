"""A far cloud's table, and which layers a cloud has."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import structs

from bench.records import Cell, read_run
from bench.report.marked import markers
from bench.sim.arms import sim_arm
from bench.sim.settings import far_clouds
from bench.sim.settings.hardware import H200, ORIN, VICUNA_7B, RooflineStep
from bench.sim.settings.large_models import Fleet
from bench.sim.world.acceptance import geometric
from hat.commands.bench_sim import sim
from tests.support.bench_runs import WORKLOAD, made_up_cell, made_up_request

ROOT = Path(__file__).parents[2]


def test_a_row_has_each_arms_speed_and_what_it_cost_the_cloud() -> None:
    def cell(arm: str, gap_s: float, stale: int, ran: int, right: str) -> Cell:
        answer = made_up_request(
            [(0.5, 1), (0.5 + 4 * gap_s, 4)],
            rounds=2,
            drafted=[2, 2],
            accepted=[1, 1],
            stale_rows=stale,
        )
        setting = f"{far_clouds.LINKS[1]}, guesses right {right}"
        steps = [16, ran]
        return made_up_cell(arm=arm, setting=setting, requests=[answer], cloud_step_tokens=steps)

    cells = [
        cell(arm, gap_s, stale, ran, right)
        for right, factor in (("0.3", 1.0), ("0.9", 0.5))
        for arm, gap_s, stale, ran in (
            ("hat-no-ahead", 0.1, 0, 6),
            ("hat-ahead", 0.08, 0, 7),
            ("hat", 0.1 * factor, 2, 8),
        )
    ]
    text = far_clouds.table(cells, "hat bench sim --far")
    columns = "10.0 | 12.5 | 10.0 | +0% | 25% | 1.50 | 1.75 | 2.00 |"
    assert f"| 20 Mbit/s, 150 ms | 0.3 | {columns}" in text
    assert "| 20 Mbit/s, 150 ms | 0.9 | 10.0 | 12.5 | 20.0 | +100% | 25% |" in text
    assert "Sent on beside waiting: +0% to +100%. `hat bench sim --far`." in text


def test_the_table_goes_between_the_lines_that_the_page_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_clouds, "LINKS", far_clouds.LINKS[-1:])
    monkeypatch.setattr(far_clouds, "ACCEPTANCES", (0.9,))
    monkeypatch.setattr(far_clouds, "NUM_REQUESTS", 1)
    lines = markers(far_clouds.MARK)
    assert all((ROOT / "docs" / "simulator.md").read_text().count(line) == 1 for line in lines)
    into, out = tmp_path / "page.md", tmp_path / "far.json"
    into.write_text("\n".join(lines))
    command = ["--far", "--out", str(out), "--table", str(into)]
    assert CliRunner().invoke(sim, command, catch_exceptions=False).exit_code == 0
    assert [cell.arm for cell in read_run(out).cells] == list(far_clouds.ARMS)
    assert "| 100 Mbit/s, 150 ms | 0.9 |" in into.read_text()
    assert "--far --seed 0" in into.read_text()


@pytest.mark.parametrize(("arm", "num_layers"), [("hat", 30), ("u-shape", 30), ("cloud-only", 32)])
def test_a_cloud_that_gets_text_has_all_layers_and_the_head(arm: str, num_layers: int) -> None:
    fleet = Fleet(VICUNA_7B, (ORIN,), 0.01, 0.0, H200)
    table = geometric(2.0, 0.9, 6, "")
    workload = structs.replace(WORKLOAD, name="spec-bench")
    found = fleet.scenario(sim_arm(arm), "", workload, table, 0)
    assert isinstance(found.cloud.step_time, RooflineStep)
    assert found.cloud.step_time.num_layers == num_layers
    assert found.cloud.step_time.has_head == (arm == "cloud-only")
