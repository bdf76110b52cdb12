"""`hat bench sim`: devices, links and clouds under virtual time."""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.arms import arm_names
from bench.live.overview import overview
from bench.receipts import simulation_receipt
from bench.records import Cell, Comparison, Run, read_run, write_run
from bench.report.marked import write_between
from bench.sim.run import simulate
from bench.sim.scenario import Scenario
from bench.sim.settings import codecs, far_clouds, paper, paper_table, scale, slow_links
from bench.sim.settings.hardware import SERVERS
from bench.sim.settings.like import like_scenarios
from bench.sim.settings.like_table import lines as like_lines
from hat.settings.options import FiniteRange

_Rows = Callable[[Cell], str]

_PROGRAM = ("hat", "bench", "sim")


@dataclass(frozen=True, slots=True)
class _Simulated:
    """What was simulated, and the flags that do it again, but for the seed."""

    cells: list[Cell]
    flags: list[str]
    comparisons: Sequence[Comparison] = ()
    table: str = ""
    """For a document, where there is one, between the markers named `mark`."""
    mark: str = ""


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
    "--8b",
    "is_8b",
    is_flag=True,
    help="An 8B model over links of 5, 20 and 100 Mbit/s: its first token, and each one behind it.",
)
@click.option(
    "--far",
    "is_far",
    is_flag=True,
    help="An 8B model whose cloud is 80 and 150 ms away: drafts sent on behind undecided ones.",
)
@click.option(
    "--codecs",
    "is_codecs",
    is_flag=True,
    help="An 8B model's rows as they are and coded exactly, of 30 and 1,000 devices.",
)
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
@click.option(
    "--cloud",
    "server",
    type=click.Choice(sorted(SERVERS)),
    help="With --like: the cloud's steps are computed for this GPU, and drafts accepted as in all "
    "the results together.",
)
@click.option(
    "--acceptance",
    "acceptance_file",
    type=click.Path(path_type=Path),
    metavar="LIVE.json",
    help="With --8b: also with drafts accepted as the greedy ones of arm `hat` in this result.",
)
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --8b, --far and --codecs: also write the table between the lines "
    "<!-- bench-8b:begin --> and <!-- bench-8b:end -->, with --far bench-far, with --codecs "
    "bench-codecs, of a Markdown file.",
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
    type=FiniteRange(min=1),
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
def sim(**chosen: Any) -> None:
    """Run the production scheduler, sessions, planners and estimators under virtual time.

    The same seed gives the same result file, byte for byte.
    """
    kinds = {
        "--paper": (chosen["is_paper"], _paper),
        "--scale": (chosen["is_scale"], _scale),
        "--8b": (chosen["is_8b"], _slow_links),
        "--far": (chosen["is_far"], _far),
        "--codecs": (chosen["is_codecs"], _codecs),
        "--like": (chosen["live_file"] is not None, _like),
    }
    has_table = chosen["is_8b"] or chosen["is_far"] or chosen["is_codecs"]
    if chosen["table"] is not None and not has_table:
        raise click.UsageError("--table goes with --8b, --far and --codecs")
    wanted = [run for is_wanted, run in kinds.values() if is_wanted]
    if len(wanted) != 1:
        raise click.UsageError(f"give one of {', '.join(kinds)}")
    seed, out = chosen["seed"], chosen["out"]
    found = wanted[0](chosen)
    receipt = simulation_receipt([*_PROGRAM, *found.flags, "--seed", str(seed)], seed)
    comparisons = list(found.comparisons)
    write_run(out, Run(kind="sim", receipt=receipt, cells=found.cells, comparisons=comparisons))
    if chosen["table"] is not None:
        write_between(chosen["table"], found.mark, found.table)
    click.echo(f"wrote {out}")


def _paper(chosen: Mapping[str, Any]) -> _Simulated:
    num_requests = chosen["num_requests"]
    scenarios = list(paper.scenarios(chosen["seed"], num_requests))
    cells = _simulated(scenarios, len(scenarios))
    click.echo("\n".join(paper_table.lines(cells)))
    flags = ["--paper", "--num-requests", str(num_requests)]
    return _Simulated(cells, flags, paper_table.comparisons(cells))


def _scale(chosen: Mapping[str, Any]) -> _Simulated:
    sweep = scale.Sweep(
        arm=chosen["arm"],
        arrivals=chosen["arrivals"],
        num_devices=chosen["num_devices"],
        duration_s=chosen["duration"],
        replicas=chosen["clouds"],
        loads_per_s=chosen["loads"],
        seed=chosen["seed"],
    )
    click.echo(scale.HEADER)
    cells = _simulated(scale.scenarios(sweep), sweep.num_points, scale.line)
    return _Simulated(cells, ["--scale", *_flags(sweep)])


def _far(chosen: Mapping[str, Any]) -> _Simulated:
    scenarios, flags = list(far_clouds.scenarios(chosen["seed"])), ["--far"]
    click.echo(far_clouds.HEADER)
    cells = _simulated(scenarios, len(scenarios), far_clouds.line)
    command = shlex.join([*_PROGRAM, *flags, "--seed", str(chosen["seed"])])
    return _Simulated(cells, flags, table=far_clouds.table(cells, command), mark=far_clouds.MARK)


def _codecs(chosen: Mapping[str, Any]) -> _Simulated:
    scenarios, flags = list(codecs.scenarios(chosen["seed"])), ["--codecs"]
    click.echo(codecs.HEADER)
    cells = _simulated(scenarios, len(scenarios), codecs.line)
    command = shlex.join([*_PROGRAM, *flags, "--seed", str(chosen["seed"])])
    return _Simulated(cells, flags, table=codecs.table(cells, command), mark=codecs.MARK)


def _slow_links(chosen: Mapping[str, Any]) -> _Simulated:
    file, flags = chosen["acceptance_file"], ["--8b"]
    measured: Sequence[Cell] = ()
    if file is not None:
        measured = slow_links.measured_cells(read_run(file))
        flags += ["--acceptance", file.name]
    scenarios = list(slow_links.scenarios(chosen["seed"], measured))
    cells = _simulated(scenarios, len(scenarios))
    table = slow_links.table(cells, shlex.join([*_PROGRAM, *flags]))
    click.echo(table)
    return _Simulated(cells, flags, table=table, mark=slow_links.MARK)


def _like(chosen: Mapping[str, Any]) -> _Simulated:
    live_file, files, server = chosen["live_file"], chosen["calibration_files"], chosen["server"]
    if not files:
        raise click.UsageError("--like needs --calibrate")
    live = read_run(live_file)
    learned_from = [read_run(file) for file in files]
    scenarios = list(like_scenarios(live, learned_from, chosen["seed"], server))
    cells = _simulated(scenarios, len(scenarios))
    click.echo(overview(cells) if server else "\n".join(like_lines(live.cells, cells)))
    flags = ["--like", live_file.name]
    flags += [word for file in files for word in ("--calibrate", file.name)]
    return _Simulated(cells, [*flags, "--cloud", server] if server else flags)


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


def _simulated(
    scenarios: Iterable[Scenario], num_scenarios: int, row: _Rows = lambda cell: ""
) -> list[Cell]:
    cells = []
    for number, scenario in enumerate(scenarios, start=1):
        name = f"{scenario.setting}: {scenario.arm.name}"
        click.echo(f"{number} of {num_scenarios}, {name}", err=True)
        cell = simulate(scenario)
        cells.append(cell)
        if text := row(cell):
            click.echo(text)
    return cells
