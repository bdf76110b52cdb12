"""`hat bench sim`: devices, links and clouds under virtual time."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click

from bench.records import Cell, RunFileError, read_run, write_run
from bench.sim import paper, paper_table, scale
from bench.sim.like import LikeError, like_scenarios
from bench.sim.like_table import lines as like_lines
from bench.sim.receipt import sim_run
from bench.sim.run import simulate
from bench.sim.scenario import Scenario
from hat.errors import CommandError

_Rows = Callable[[Cell], str]


@click.command()
@click.option("--paper", "is_paper", is_flag=True, help="The paper's setting, beside its figures.")
@click.option("--scale", "is_scale", is_flag=True, help="1,000 devices over load and clouds.")
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
@click.option("--arm", default="hat", show_default=True, help="Of --scale.")
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
    arm: str,
    arrivals: str,
) -> None:
    """Run the production scheduler, sessions, planners and estimators under virtual time.

    The same seed gives the same result file, byte for byte.
    """
    if [is_paper, is_scale, live_file is not None].count(True) != 1:
        raise click.UsageError("give one of --paper, --scale and --like")
    if is_paper:
        cells = _simulated(paper.scenarios(seed, num_requests), lambda cell: "")
        click.echo("\n".join(paper_table.lines(cells)))
        command = ["--paper", "--num-requests", str(num_requests)]
    elif is_scale:
        click.echo(scale.HEADER)
        chosen = scale.scenarios(seed, arm, arrivals, num_devices=num_devices)
        cells = _simulated(chosen, scale.line)
        settings = ["--num-devices", str(num_devices), "--arm", arm, "--arrivals", arrivals]
        command = ["--scale", *settings]
    else:
        assert live_file is not None
        if not calibration_files:
            raise click.UsageError("--like needs --calibrate")
        cells = _like(live_file, calibration_files, seed)
        command = ["--like", live_file.name]
        command += [word for file in calibration_files for word in ("--calibrate", file.name)]
    full = ["hat", "bench", "sim", *command, "--seed", str(seed)]
    write_run(out, sim_run(cells, seed, full))
    click.echo(f"wrote {out}")


def _simulated(scenarios: Iterable[Scenario], row: _Rows) -> list[Cell]:
    cells = []
    for scenario in scenarios:
        cell = simulate(scenario)
        cells.append(cell)
        click.echo(f"{cell.setting}: {cell.arm}", err=True)
        if text := row(cell):
            click.echo(text)
    return cells


def _like(live_file: Path, calibration_files: Sequence[Path], seed: int) -> list[Cell]:
    try:
        live = read_run(live_file)
        learned_from = [read_run(file) for file in calibration_files]
        cells = _simulated(like_scenarios(live, learned_from, seed), lambda cell: "")
    except (RunFileError, LikeError) as error:
        raise CommandError(str(error)) from error
    click.echo("\n".join(like_lines(live.cells, cells)))
    return cells
