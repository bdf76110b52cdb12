"""`hat bench live`: cloud and devices as processes at both ends of a shaped link."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hat.bundle_cache import bundles_of
from hat.errors import failures_explained
from hat.progress import Bars
from hat.settings.options import FiniteRange
from hat.splitting import SplitRequest
from process.errors import ConfigError

if TYPE_CHECKING:
    from bench.arms import Arm
    from bench.live.plan import LivePlan
    from bench.records import WorkloadRecord

_EPILOG = """
\b
Examples:
  hat bench live --out results.json
  hat bench live --link up=20mbit,down=50mbit,rtt=40ms --arms u-shape,hat --out results.json
  hat bench live --model models/storybook-7m --link trace=oboe-0,rtt=60ms --out results.json
  hat bench live --devices 4 --arrivals poisson --rate 2 --requests 40 --out results.json
  hat bench live --prompts books:400 --max-tokens 1 --repeats 3 --out ttft.json

\b
Then:
  hat bench report results.json

With root and TUN devices the link is made between network namespaces, by netem where the kernel has
it; else it is a TCP relay, and the results say so. Several --model and --link give every pair of
them. In each pass over a setting the arms take turns in another order. All arms must give the same
texts; if they do not, the results are written all the same and the command fails.
"""


_SPLIT = SplitRequest(None, None, "keep", ("float32",))


@click.command(epilog=_EPILOG)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL",
    help="Checkpoint folder, hub id, or a folder that `hat split` wrote; may be repeated.  "
    "[default: as `hat up`]",
)
@click.option(
    "--arms",
    metavar="A,B,...",
    help="Which methods to compare, in the order of the first pass; `list` prints them all.  "
    "[default: all that the model can run]",
)
@click.option(
    "--link",
    "links",
    multiple=True,
    metavar="LINK",
    help="Such as up=20mbit,down=50mbit,rtt=40ms,jitter=2ms,loss=0.5%, or trace=NAME,rtt=40ms, or "
    "loopback; may be repeated.  [default: up=20mbit,down=50mbit,rtt=40ms]",
)
@click.option(
    "--link-kind",
    type=click.Choice(["netem", "tap", "tcp", "loopback"]),
    help="What shapes it; left out: the most faithful that works here.",
)
@click.option("--devices", type=click.IntRange(1, 64), default=1, help="[default: 1]")
@click.option(
    "--prompts",
    metavar="NAME",
    help="spec-bench, tinystories, adversarial (text that nobody can foresee), or books:N for N "
    "tokens each. spec-bench has as many of each of its six categories, "
    "spec-bench:chat,code,mathematics of these groups; they are asked as messages where the model "
    "has a chat template.  [default: spec-bench for such a model, else tinystories]",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=8,
    metavar="N",
    help="Requests of each arm and pass, over all devices.  [default: 8]",
)
@click.option(
    "--warm-up",
    type=click.IntRange(min=0),
    default=3,
    metavar="N",
    help="Requests of each device that are not counted, before the others.  [default: 3]",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=48,
    metavar="N",
    help="Tokens of every answer; the model's end of text does not end it.  [default: 48]",
)
@click.option(
    "--arrivals",
    type=click.Choice(["closed", "poisson", "azure-conv", "azure-code"]),
    default="closed",
    help="When requests come. closed: each device asks when its last answer is there.  "
    "[default: closed]",
)
@click.option(
    "--rate", type=FiniteRange(min=0, min_open=True), metavar="R", help="Requests per second."
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the cloud's layers and of the rows that cross. In 16 bits a text may part at a tie.",
)
@click.option("--temperature", type=FiniteRange(0, 2), default=0.0, help="[default: 0]")
@click.option("--top-p", type=FiniteRange(0, 1, min_open=True), default=1.0, help="[default: 1]")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=1, metavar="N", help="Passes.  [default: 1]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="[default: 0]")
@click.option("--out", metavar="FILE", help="Results, as JSON.")
def live(**parameters: Any) -> int | None:
    """Measure arms over a shaped link.

    Starts a cloud and devices as processes at the two ends of a link, asks through the devices'
    OpenAI endpoint as a user's program does, and writes when each piece of each answer came.
    """
    with failures_explained():
        if parameters["arms"] == "list":
            click.echo(_list_of_arms())
            return None
        if parameters["out"] is None:
            raise ConfigError("say where the results are to go: --out FILE")
        return measure(_plan(parameters), Path(parameters["out"]))


def measure(plan: "LivePlan", out: Path) -> int:
    """Carry out a plan with a progress bar and write the results; 1 if texts differ, else 0.

    Raises:
        CommandError: the run cannot go on.
    """
    from bench.live.overview import different_texts, overview
    from bench.live.run import Progress, run_live
    from bench.receipts import live_receipt
    from bench.records import Run, write_run

    receipt = live_receipt(["hat", *sys.argv[1:]], plan.seed)
    with Bars() as bars:
        bars.begin(None, plan.num_requests, unit="answer")
        progress = Progress(bars.say, bars.advance)
        cells = asyncio.run(run_live(plan, progress))
    write_run(out, Run(kind="live", receipt=receipt, cells=cells))
    click.echo(f"Wrote {len(cells)} cells to {out}.")
    num_failed = sum(request.error is not None for cell in cells for request in cell.requests)
    if num_failed:
        click.echo(f"hat: {num_failed} requests failed; the results name the errors", err=True)
    click.echo(overview(cells))
    different = different_texts(cells)
    for difference in different:
        click.echo(f"hat: {difference}", err=True)
    return 1 if different or num_failed else 0


def _plan(parameters: dict[str, Any]) -> "LivePlan":
    from bench.link.shaped_link import LinkKind
    from bench.link.spec import parse_link_spec
    from bench.live.plan import LivePlan, Setting

    kind = None if parameters["link_kind"] is None else LinkKind(parameters["link_kind"])
    dtype = parameters["dtype"]
    texts = parameters["links"] or ("up=20mbit,down=50mbit,rtt=40ms",)
    links, named = [parse_link_spec(text) for text in texts], parameters["arms"]
    _check_load(parameters)
    settings: list[Setting] = []
    for model in parameters["models"] or (None,):
        folder = bundles_of(model, _SPLIT, os.environ)
        workload = _workload(parameters, folder)
        arms = _usable_arms(folder, _arms(named), workload.num_devices, named is not None)
        settings += [
            Setting(folder, link, workload, arms, kind, dtype, parameters["warm_up"])
            for link in links
        ]
    return LivePlan(tuple(settings), parameters["repeats"], parameters["seed"])


def _usable_arms(
    folder: Path, arms: "tuple[Arm, ...]", num_devices: int, are_named: bool
) -> "tuple[Arm, ...]":
    """Without arms that cannot be run here, which is an error where they were asked for by name."""
    from bench.live.plan import arms_for

    usable = arms_for(folder, arms, num_devices)
    if left_out := ", ".join(arm.name for arm in arms if arm not in usable):
        reason = f"{left_out}: not with this model's bundle, or not with {num_devices} devices"
        if are_named:
            raise ConfigError(f"--arms: {reason}")
        click.echo(f"hat: left out {reason}", err=True)
    return usable


def _check_load(parameters: dict[str, Any]) -> None:
    from bench.workloads.arrivals import CLOSED

    if (parameters["arrivals"] == CLOSED) != (parameters["rate"] is None):
        raise ConfigError("--rate goes with --arrivals other than closed, and is needed there")
    if parameters["requests"] < parameters["devices"]:
        raise ConfigError("expected at least one request per device; see --requests")


def _workload(parameters: dict[str, Any], bundles: Path) -> "WorkloadRecord":
    from bench.live.plan import is_chat, prompts_for
    from bench.records import WorkloadRecord

    prompts = parameters["prompts"] or prompts_for(bundles)
    return WorkloadRecord(
        name=prompts,
        arrivals=parameters["arrivals"],
        num_devices=parameters["devices"],
        num_requests=parameters["requests"],
        max_output_tokens=parameters["max_tokens"],
        temperature=parameters["temperature"],
        top_p=parameters["top_p"],
        is_chat=is_chat(bundles, prompts),
        requests_per_s=parameters["rate"],
    )


def _arms(names: str | None) -> "tuple[Arm, ...]":
    from bench.arms import ARMS, arm_names, find_arm

    if names is None:
        return ARMS
    known = arm_names()
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--arms: expected some of {', '.join(known)}, got {name!r}")
    return tuple(find_arm(name) for name in chosen)


def _list_of_arms() -> str:
    from bench.arms import ARMS

    width = max(len(arm.name) for arm in ARMS)
    return "\n".join(f"{arm.name:{width}}  {arm.about}" for arm in ARMS)
