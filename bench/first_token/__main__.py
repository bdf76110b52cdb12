"""`python -m bench.first_token BUNDLES`: TTFT over links, beside its bound and beside u-shape.

Arms are asked in turns, over the same link and the same cloud's machine. The bound is the longest
of three times, and what is paid once: the link's for the bytes that were sent, the device's and the
cloud's for the whole prompt in one go. Over a recorded link the bound knows the recording.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from bench.arms import arm_names, find_arm
from bench.first_token.measure import Asked, First, first_tokens
from bench.link.shaped_link import LinkKind
from bench.link.spec import LinkSpec, link_text, parse_link_spec
from bench.live.plan import model_record
from bench.machine import machine_lines
from process.errors import UserError

LINKS = tuple(f"up={rate}mbit,down={rate}mbit,rtt=40ms" for rate in (5, 10, 40, 100))

TRACES = ("hsdpa-bus-1", "hsdpa-car-2", "hsdpa-ferry-20", "oboe-0", "oboe-103")

_ARMS = "u-shape,hat"


class Line(msgspec.Struct, frozen=True):
    """Medians of an arm over one link and prompt length; ratios are medians of ratios."""

    link: str
    num_tokens: int
    arm: str
    ttft_s: float
    bytes_per_token: float
    chunks: float
    stage: str
    over_bound: float
    over_first_arm: float
    worst_over_bound: float
    num_same: int
    num_prompts: int


def main() -> int:
    """Measure and print; 1 if an arm's token differs from the first arm's."""
    chosen = _arguments()
    print("\n".join(machine_lines()))
    print(f"model {model_record(chosen.bundles).name}, {chosen.prompts} prompts of each length\n")
    print(
        "| link | tokens | arm | TTFT, ms | bytes a token | chunks | bound by | of bound (worst) |",
        end="",
    )
    print(" of first arm | same token |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    lines: list[Line] = []
    try:
        for spec in _specs(chosen):
            for num_tokens in chosen.tokens:
                lines += _measure(chosen, spec, num_tokens)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if chosen.out is not None:
        chosen.out.write_bytes(msgspec.json.format(msgspec.json.encode(lines)) + b"\n")
    return int(any(line.num_same < line.num_prompts for line in lines))


def _measure(chosen: argparse.Namespace, spec: LinkSpec, num_tokens: int) -> list[Line]:
    asked = Asked(
        bundles=chosen.bundles,
        link=spec,
        num_tokens=num_tokens,
        num_prompts=chosen.prompts,
        pause_s=chosen.pause,
        dtype=chosen.dtype,
        kind=chosen.link_kind,
    )
    arms = tuple(find_arm(name) for name in chosen.arms.split(","))
    found = asyncio.run(first_tokens(asked, arms, lambda: None))
    name = link_text(spec)
    lines = [line_of(name, num_tokens, arm.name, found, arms[0].name) for arm in arms]
    for line in lines:
        print(row_of(line), flush=True)
    return lines


def line_of(link: str, num_tokens: int, arm: str, found: Sequence[First], first_arm: str) -> Line:
    """An arm's medians, beside the first arm's prompt by prompt."""
    own = [each for each in found if each.arm == arm]
    first = [each for each in found if each.arm == first_arm]
    stages = [each.bound.stage for each in own]
    pairs = zip(own, first, strict=True)
    return Line(
        link=link,
        num_tokens=num_tokens,
        arm=arm,
        ttft_s=median(each.seconds for each in own),
        bytes_per_token=median(each.bytes_up / each.num_tokens for each in own),
        chunks=median(each.num_chunks for each in own),
        stage=max(set(stages), key=stages.count),
        over_bound=median(each.over_bound for each in own),
        over_first_arm=median(mine.seconds / other.seconds for mine, other in pairs),
        worst_over_bound=max(each.over_bound for each in own),
        num_same=sum(each.is_same for each in own),
        num_prompts=len(own),
    )


def row_of(line: Line) -> str:
    """A line of the table."""
    cells = [
        line.link,
        f"{line.num_tokens:,}",
        f"`{line.arm}`",
        f"{1e3 * line.ttft_s:,.0f}",
        f"{line.bytes_per_token:,.0f}",
        f"{line.chunks:g}",
        line.stage,
        f"{line.over_bound:.2f} ({line.worst_over_bound:.2f})",
        f"{line.over_first_arm:.2f}",
        f"{line.num_same} of {line.num_prompts}",
    ]
    return f"| {' | '.join(cells)} |"


def _specs(chosen: argparse.Namespace) -> list[LinkSpec]:
    if chosen.traces:
        return [LinkSpec(trace=trace, delay_s=0.02) for trace in TRACES]
    return [parse_link_spec(text) for text in chosen.links or LINKS]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.first_token", description=__doc__)
    parser.add_argument("bundles", type=Path, help="folder that `hat split` wrote")
    parser.add_argument("--link", dest="links", action="append", help="as in `hat bench live`")
    parser.add_argument("--traces", action="store_true", help=f"over {', '.join(TRACES)} instead")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--prompts", type=int, default=5, help="of each length; default: 5")
    parser.add_argument("--arms", default=_ARMS, help=f"default: {_ARMS}; of {arm_names()}")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each prompt")
    parser.add_argument("--dtype", default="auto", help="of layers and rows; auto: the bundle's")
    parser.add_argument("--link-kind", type=LinkKind, choices=list(LinkKind))
    parser.add_argument("--out", type=Path, help="JSON file for the lines")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
