"""`python -m bench.reuse BUNDLES`: a conversation's last turn with and without what was kept.

Conversations of books' text are held by each arm in turn, over the same link and the same cloud.
Answers must be the same, token for token: the format is float32 unless told otherwise.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
from tokenizers import Tokenizer

from bench.arms import find_arm
from bench.link.opening import open_link
from bench.link.shaped_link import LinkKind, ShapedLink
from bench.link.spec import link_text, parse_link_spec
from bench.live.fleet import Fleet, shared_cores
from bench.live.plan import model_record
from bench.live.processes import first_of
from bench.machine import machine_lines
from bench.reuse.records import APART, ARMS, NONE, TOGETHER, Answered, Job, Talk
from bench.workloads.prompts import load_prompts
from process.errors import UserError

_LINK = "up=20mbit,down=20mbit,rtt=40ms"
_TALK = (sys.executable, "-m", "bench.reuse.talk")


def main() -> int:
    """Measure and print; 1 if an arm's answer differs from that without reuse."""
    chosen = _arguments()
    spec = parse_link_spec(chosen.link)
    print("\n".join(machine_lines()))
    name = model_record(chosen.bundles).name
    print(
        f"model {name}, {chosen.talks} conversations of {chosen.turns} turns over {link_text(spec)}"
    )
    try:
        with open_link(spec, kind=chosen.link_kind) as link:
            answers = asyncio.run(_measure(chosen, link))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(table_of(answers, chosen.turns - 1)))
    if chosen.out is not None:
        chosen.out.write_bytes(msgspec.json.encode(answers) + b"\n")
    return int(num_differing(answers) > 0)


async def _measure(chosen: argparse.Namespace, link: ShapedLink) -> list[Answered]:
    fleet = Fleet(chosen.bundles, [link], shared_cores(), chosen.dtype)
    answers: list[Answered] = []
    is_done = asyncio.Event()
    num_wanted = chosen.talks * (len(ARMS) * chosen.turns + 4)

    def take(line: bytes) -> None:
        answers.append(msgspec.json.decode(line, type=Answered))
        if len(answers) == num_wanted:
            is_done.set()

    with tempfile.TemporaryDirectory(prefix="hat-reuse-") as folder:
        try:
            cloud = await fleet.start_cloud(find_arm("hat"))
            job = Job(
                bundle=str(chosen.bundles / "device"),
                cloud_url=fleet.cloud_url(cloud),
                talks=_talks(chosen),
                answer_tokens=chosen.answer_tokens,
                pause_s=chosen.pause,
                folder=f"{folder}/kept",
            )
            child = await fleet.start_client(0, _TALK, take)
            await child.write(msgspec.json.encode(job))
            await first_of(child, is_done, None, "done")
        finally:
            await fleet.close()
    return answers


def _talks(chosen: argparse.Namespace) -> list[Talk]:
    """Conversations whose turns are pieces of books, cut from one text each."""
    num_tokens = chosen.tokens + (chosen.turns - 1) * chosen.turn_tokens
    device = chosen.bundles / "device"
    tokenizer = Tokenizer.from_file(str(device / "tokenizer.json"))
    talks = []
    for prompt in load_prompts(f"books:{num_tokens}", chosen.talks, 0, device):
        ids = tokenizer.encode(prompt.text).ids
        ends = range(chosen.tokens, num_tokens + 1, chosen.turn_tokens)
        begins = [0, *ends]
        talks.append(Talk([ids[begin:end] for begin, end in zip(begins, ends, strict=False)]))
    return talks


def table_of(answers: Sequence[Answered], turn: int) -> list[str]:
    """The last turn by each arm, and two requests at once; ratios are medians of ratios."""
    lines = [
        "",
        f"| turn {turn + 1} | TTFT, ms | least | of no reuse | prompt | sent | same answers |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(answers, arm, NONE, turn) for arm in ARMS]
    lines += [
        "",
        "| two at once | later TTFT, ms | least | of no reuse | prompts | sent | same answers |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [_row(answers, arm, APART, None) for arm in (APART, TOGETHER)]


def _row(answers: Sequence[Answered], arm: str, other: str, turn: int | None) -> str:
    """`turn` None: of both requests at once, the later one's time and both ones' tokens."""
    own, others = (_of(answers, name, turn) for name in (arm, other))
    seconds, other_s = (
        [max(each.first_token_s for each in one) for one in list_] for list_ in (own, others)
    )
    ratio = median(mine / theirs for mine, theirs in zip(seconds, other_s, strict=True))
    flat = [each for one in own for each in one]
    num_same = sum(
        mine.answer == theirs.answer
        for one, two in zip(own, others, strict=True)
        for mine, theirs in zip(one, two, strict=True)
    )
    prompt, sent = (
        median(sum(getattr(each, what) for each in one) for one in own)
        for what in ("prompt_tokens", "sent_tokens")
    )
    times = f"{1e3 * median(seconds):,.0f} | {1e3 * min(seconds):,.0f} | {ratio:.2f}"
    return f"| {arm} | {times} | {prompt:,.0f} | {sent:,.0f} | {num_same} of {len(flat)} |"


def _of(answers: Sequence[Answered], arm: str, turn: int | None) -> list[list[Answered]]:
    """An arm's answers, by conversation."""
    own = [each for each in answers if each.arm == arm and (turn is None or each.turn == turn)]
    return [[each for each in own if each.talk == talk] for talk in sorted({a.talk for a in own})]


def num_differing(answers: Sequence[Answered]) -> int:
    """Answers that are not what they are without reuse."""
    plain = {
        (a.talk, a.turn, a.arm in (APART, TOGETHER)): a.answer
        for a in answers
        if a.arm in (NONE, APART)
    }
    return sum(a.answer != plain[a.talk, a.turn, a.arm in (APART, TOGETHER)] for a in answers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.reuse", description=__doc__)
    parser.add_argument("bundles", type=Path, help="folder that `hat split` wrote")
    parser.add_argument("--link", default=_LINK, help=f"as in `hat bench live`; default: {_LINK}")
    parser.add_argument("--tokens", type=int, default=1000, help="of the first turn")
    parser.add_argument("--turn-tokens", type=int, default=40, help="of each later one")
    parser.add_argument("--answer-tokens", type=int, default=24)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds before each later turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--talks", type=int, default=3, help="conversations")
    parser.add_argument("--dtype", default="float32", help="of layers and rows; auto: the bundle's")
    parser.add_argument("--link-kind", type=LinkKind, choices=list(LinkKind))
    parser.add_argument("--out", type=Path, help="JSON file for all answers")
    chosen = parser.parse_args()
    if chosen.turns < 3:
        parser.error(f"--turns: expected 3 or more, got {chosen.turns}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
