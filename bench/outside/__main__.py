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

from bench.arms import find_arm
from bench.link.measure import measure_link
from bench.link.opening import open_link
from bench.link.shaped_link import ShapedLink
from bench.link.spec import link_text, parse_link_spec
from bench.live.fleet import Cores, Fleet, shared_cores
from bench.live.plan import Setting, Workload, load_of, model_record
from bench.machine import machine_lines
from bench.outside.aiperf import AiperfRun
from bench.outside.figures import HEAD, Pass, comparisons
from bench.outside.turns import Turns

_ARM = "hat"
_PROMPTS = "books:128"
_NUM_REQUESTS = 20


def main() -> None:
    """Measure and print."""
    chosen = _arguments()
    spec = parse_link_spec(chosen.link)
    workload = Workload(_PROMPTS, num_requests=_NUM_REQUESTS, max_tokens=chosen.max_tokens)
    setting = Setting(chosen.bundles, spec, workload, arms=(find_arm(_ARM),))
    print("\n".join(machine_lines()))
    print(f"{setting.name}, arm {_ARM}, model {model_record(chosen.bundles).name}")
    with open_link(spec) as link, tempfile.TemporaryDirectory() as scratch:
        rtt_ms = 1e3 * measure_link(link).rtt_s["p50"]
        print(f"link: {link_text(spec)}, kind {link.kind}, round trip {rtt_ms:.2f} ms (p50)")
        asyncio.run(_measure(chosen, setting, link, Path(scratch)))


async def _measure(
    chosen: argparse.Namespace, setting: Setting, link: ShapedLink, scratch: Path
) -> None:
    cores = Cores() if chosen.any_core else shared_cores()
    print(f"cores: {cores.note}")
    load = load_of(setting, 0)
    async with AsyncExitStack() as stack:
        fleet = Fleet(setting.bundles, [link], cores)
        stack.push_async_callback(fleet.close)
        url = (await fleet.start(setting.arms[0])).urls[0]
        run = AiperfRun(
            program=chosen.aiperf.absolute(),
            folder=scratch,
            tokenizer=setting.bundles / "device",
            model=model_record(setting.bundles).name,
            url=url,
            asks=load.asks[0],
            num_warm_up=load.num_warm_up,
            looks_per_s=chosen.looks_per_s or None,
        )
        print(f"aiperf: {shlex.join(run.command())}")
        turns = Turns(fleet, load, run)
        await turns.ours()  # the device learns of link and cloud
        passes: dict[bool, list[Pass]] = {True: [], False: []}
        for number in range(chosen.passes):
            for is_ours in (False, True) if number % 2 else (True, False):
                passes[is_ours].append(await turns.one_pass(is_ours))
    counted = [one for client in passes.values() for each in client for one in each.counted]
    tokens = sorted({one.output_tokens for one in counted})
    print(f"passes: {chosen.passes} each; tokens per answer as the server counts: {tokens}")
    print("\n".join([HEAD, *(each.row() for each in comparisons(passes[True], passes[False]))]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.outside", description=__doc__)
    parser.add_argument("bundles", type=Path, help="the folder that `hat split` wrote")
    parser.add_argument("--aiperf", type=Path, required=True, help="the program")
    parser.add_argument("--link", default="loopback", help="up=20mbit,down=50mbit,rtt=40ms")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument(
        "--any-core", action="store_true", help="do not keep both ends on cores of their own"
    )
    parser.add_argument(
        "--looks-per-s",
        type=int,
        default=100,
        help="how often aiperf looks for its turn; 0: always",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
