"""`hat bench sim`: devices, links and clouds under virtual time."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from bench.arms import arm_names
from bench.receipts import simulation_receipt
from bench.records import Cell, Comparison, Run, read_run, write_run
from bench.sim.run import simulate
from bench.sim.scenario import Scenario
from bench.sim.settings import paper, paper_table, scale
from bench.sim.settings.like import like_scenarios
from bench.sim.settings.like_table import lines as like_lines

_Rows = Callable[[Cell], str]


class _Numbers(click.ParamType[Any]):
    """Numbers above 0 with commas between them."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...] | tuple[float, ...]:
        """The numbers, in the order given."""
        try:
            numbers = tuple(self._kind(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 < number < math.inf for number in numbers):
            self.fail(f"expected numbers above 0 with commas between them, got {value!r}")
        return numbers


@click.command()
@click.option("--paper", "is_paper", is_flag=True, help="The paper's setting, beside its figures.")
@click.option("--scale", "is_scale", is_flag=True, help="Many devices over load and clouds.")
@click.option(
    "--like",
    "live_file",
    type=click.Path(path_type=Path),
    metavar="LIVE.json",
    help="The settings of a live result, beside it.",
)
@click.option(
    "--calibrate",
    "calibration_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="LIVE.json",
    help="With --like: live results to learn this machine's times from, with prompts of several "
    "lengths; of LIVE.json itself, settings other than the one simulated. May be repeated.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Result file.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--num-requests", type=int, default=150, show_default=True, help="Of --paper, per cell."
)
@click.option(
    "--num-devices", type=int, default=scale.NUM_DEVICES, show_default=True, help="Of --scale."
)
@click.option(
    "--clouds",
    type=_Numbers(int),
    default=",".join(map(str, scale.REPLICAS)),
    show_default=True,
    metavar="N,...",
    help="Of --scale.",
)
@click.option(
    "--loads",
    type=_Numbers(float),
    default=",".join(f"{load:g}" for load in scale.LOADS_PER_S),
    show_default=True,
    metavar="R,...",
    help="Of --scale, requests per second over all devices.",
)
@click.option(
    "--duration",
    type=click.FloatRange(min=1),
    default=scale.DURATION_S,
    show_default=True,
    metavar="SECONDS",
    help="Of --scale, simulated time of each point; up to four times as long until it has settled.",
)
@click.option(
    "--arm", type=click.Choice(arm_names()), default="hat", show_default=True, help="Of --scale."
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "azure-conv", "azure-code"]),
    default="poisson",
    show_default=True,
    help="Of --scale.",
)
def sim(
    is_paper: bool,
    is_scale: bool,
    live_file: Path | None,
    calibration_files: tuple[Path, ...],
    out: Path,
    seed: int,
    num_requests: int,
    num_devices: int,
    clouds: tuple[int, ...],
    loads: tuple[float, ...],
    duration: float,
    arm: str,
    arrivals: str,
) -> None:
    """Run the production scheduler, sessions, planners and estimators under virtual time.

    The same seed gives the same result file, byte for byte.
    """
    if [is_paper, is_scale, live_file is not None].count(True) != 1:
        raise click.UsageError("give one of --paper, --scale and --like")
    beside: Sequence[Comparison] = ()
    if is_paper:
        chosen = list(paper.scenarios(seed, num_requests))
        cells = _simulated(chosen, len(chosen), lambda cell: "")
        beside = paper_table.comparisons(cells)
        click.echo("\n".join(paper_table.lines(cells)))
        command = ["--paper", "--num-requests", str(num_requests)]
    elif is_scale:
        sweep = scale.Sweep(arm, arrivals, num_devices, duration, clouds, loads, seed)
        click.echo(scale.HEADER)
        cells = _simulated(scale.scenarios(sweep), sweep.num_points, scale.line)
        command = ["--scale", *_flags(sweep)]
    else:
        assert live_file is not None
        if not calibration_files:
            raise click.UsageError("--like needs --calibrate")
        cells = _like(live_file, calibration_files, seed)
        command = ["--like", live_file.name]
        command += [word for file in calibration_files for word in ("--calibrate", file.name)]
    full = ["hat", "bench", "sim", *command, "--seed", str(seed)]
    receipt = simulation_receipt(full, seed)
    write_run(out, Run(kind="sim", receipt=receipt, cells=cells, comparisons=list(beside)))
    click.echo(f"wrote {out}")


def _flags(sweep: scale.Sweep) -> list[str]:
    given = {
        "--num-devices": str(sweep.num_devices),
        "--clouds": ",".join(map(str, sweep.replicas)),
        "--loads": ",".join(f"{load:g}" for load in sweep.loads_per_s),
        "--duration": f"{sweep.duration_s:g}",
        "--arm": sweep.arm,
        "--arrivals": sweep.arrivals,
    }
    return [word for pair in given.items() for word in pair]


def _simulated(scenarios: Iterable[Scenario], num_scenarios: int, row: _Rows) -> list[Cell]:
    cells = []
    for number, scenario in enumerate(scenarios, start=1):
        name = f"{scenario.setting}: {scenario.arm.name}"
        click.echo(f"{number} of {num_scenarios}, {name}", err=True)
        cell = simulate(scenario)
        cells.append(cell)
        if text := row(cell):
            click.echo(text)
    return cells


def _like(live_file: Path, calibration_files: Sequence[Path], seed: int) -> list[Cell]:
    live = read_run(live_file)
    learned_from = [read_run(file) for file in calibration_files]
    chosen = list(like_scenarios(live, learned_from, seed))
    cells = _simulated(chosen, len(chosen), lambda cell: "")
    click.echo("\n".join(like_lines(live.cells, cells)))
    return cells
