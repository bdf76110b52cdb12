"""`python -m bench.outside BUNDLES --aiperf PROGRAM`: our client and aiperf take turns.

Both ask one running device for the same prompts, one request at a time, greedily; each goes first
in every other pass. aiperf is none of our dependencies: install it in an environment of its own.
"""

import argparse
import asyncio
import shlex
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from bench.arms import arm_names, find_arm
from bench.link.measure import measure_link
from bench.link.opening import open_link
from bench.link.shaped_link import LinkKind, ShapedLink
from bench.link.spec import link_text, parse_link_spec
from bench.live.fleet import Cores, Fleet, shared_cores
from bench.live.plan import Setting, Workload, load_of, model_record
from bench.machine import machine_lines
from bench.outside.figures import HEAD, comparisons
from bench.outside.turns import Turns

_LINK_PHASE_S = 0.5


def main() -> None:
    """Measure and print."""
    chosen = _arguments()
    spec = parse_link_spec(chosen.link)
    setting = Setting(
        bundles=chosen.bundles,
        link=spec,
        workload=Workload(
            prompts=chosen.prompts,
            num_requests=chosen.num_requests,
            max_tokens=chosen.max_tokens,
        ),
        arms=(find_arm(chosen.arm),),
    )
    print("\n".join(machine_lines()))
    print(f"{setting.name}, arm {chosen.arm}, model {model_record(chosen.bundles).name}")
    kind = None if chosen.link_kind is None else LinkKind(chosen.link_kind)
    with open_link(spec, kind=kind) as link, tempfile.TemporaryDirectory() as scratch:
        measured = measure_link(link, _LINK_PHASE_S)
        rtt_ms = 1e3 * measured.rtt_s["p50"]
        print(f"link: {link_text(spec)}, kind {link.kind}, round trip {rtt_ms:.2f} ms (p50)")
        folder = Path(scratch) if chosen.keep is None else chosen.keep
        cores = Cores() if chosen.any_core else shared_cores()
        print(f"cores: {cores.note}")
        asyncio.run(_measure(chosen, setting, link, cores, folder))


async def _measure(
    chosen: argparse.Namespace, setting: Setting, link: ShapedLink, cores: Cores, folder: Path
) -> None:
    async with AsyncExitStack() as stack:
        fleet = Fleet(setting.bundles, [link], cores)
        stack.push_async_callback(fleet.close)
        devices = await fleet.start(setting.arms[0])
        turns = Turns(
            fleet=fleet,
            url=devices.urls[0],
            setting=setting,
            load=load_of(setting, 0),
            program=chosen.aiperf,
            folder=folder,
            looks_per_s=chosen.looks_per_s or None,
        )
        print(f"aiperf: {shlex.join(turns.aiperf(0).command())}")
        await turns.ours()  # the device learns of link and cloud
        ours, theirs = [], []
        for number in range(chosen.passes):
            first_theirs = [await turns.theirs(number)] if number % 2 else []
            ours.append(await turns.ours())
            theirs.append(first_theirs[0] if first_theirs else await turns.theirs(number))
    tokens = {each.output_tokens for one in (*ours, *theirs) for each in one.counted}
    print(f"passes: {chosen.passes} each; tokens per answer as the server counts: {sorted(tokens)}")
    print(HEAD)
    for each in comparisons(ours, theirs):
        print(each.row())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.outside", description=__doc__)
    parser.add_argument("bundles", type=Path, help="the folder that `hat split` wrote")
    parser.add_argument("--aiperf", type=Path, required=True, help="the program")
    parser.add_argument("--arm", choices=arm_names(), default="hat")
    parser.add_argument("--link", default="loopback", help="up=20mbit,down=50mbit,rtt=40ms")
    parser.add_argument("--link-kind", choices=[kind.value for kind in LinkKind])
    parser.add_argument("--prompts", default="books:128")
    parser.add_argument("--num-requests", type=int, default=20, help="in each pass")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument(
        "--any-core", action="store_true", help="do not keep both ends on cores of their own"
    )
    parser.add_argument(
        "--looks-per-s",
        type=int,
        default=100,
        help="how often aiperf looks for its turn; 0: without pause",
    )
    parser.add_argument("--keep", type=Path, help="folder for aiperf's files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
