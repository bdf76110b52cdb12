"""A visit's findings: short lines for people, and a document for programs."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from hat.doctor import pauses
from hat.doctor.advice import Foretold, rate
from hat.doctor.cloud import CloudFindings, Cost, LinkFindings
from hat.doctor.device import DeviceFindings, Memory, WeightsTimes
from hat.doctor.run import Report
from hat.quantities import num_bytes, number, seconds

_WIDTH = 110
_NAME_WIDTH = 10


def document(report: Report) -> dict[str, Any]:
    """Everything in SI units, as JSON can hold it. Keys do not depend on what was found."""
    reached, foretold = report.reached, report.foretold
    found: dict[str, Any] = msgspec.to_builtins(
        {
            "problems": report.problems,
            "device": report.device,
            "drafter": report.drafter,
            "link": None if reached is None else reached.link,
            "cloud": None if reached is None else reached.cloud,
            "check": None if reached is None else reached.check,
            "cost": None if reached is None else reached.cost,
            "expected": None if foretold is None else _expected(foretold),
            "advice": [] if foretold is None else foretold.advice,
        }
    )
    return found


def _expected(foretold: Foretold) -> dict[str, Any]:
    plain, drafted = foretold.outlook.speed, foretold.drafted
    return {
        "prompts": foretold.outlook.prompts,
        "plain": {"token_s": plain.token_s, "tokens_per_s": plain.tokens_per_s},
        "with_adapter": None
        if drafted is None
        else {
            "token_s": drafted.token_s,
            "tokens_per_s": drafted.tokens_per_s,
            "tokens_per_round": drafted.tokens_per_round,
        },
    }


def lines(report: Report) -> Iterator[str]:
    """The findings as a person reads them."""
    yield from _named("device", _device(report.device))
    yield from _named("memory", [_memory(report.device.memory)])
    if report.reached is not None:
        reached = report.reached
        yield from _named("link", [*_link(reached.link), pauses.told(reached.link, reached.cloud)])
        yield from _named("cloud", _cloud(reached.cloud))
        if report.foretold is not None:
            yield from _named("expect", _expect(report.foretold, report.drafter))
            for advice in report.foretold.advice:
                texts = [f"{advice.about}: {advice.what} ({advice.reason})"]
                yield from _named("advice", texts)
                if advice.how is not None:
                    yield f"{'':{_NAME_WIDTH}}  {advice.how}"
        yield from _named("cost", [_cost(reached.cost)])
    elif not report.problems:
        yield from _named(
            "cloud", ["not asked; --cloud URL tells what to expect, and gives advice"]
        )
    for problem in report.problems:
        yield from _named("problem", [problem])


def _named(name: str, texts: Sequence[str]) -> Iterator[str]:
    """Lines behind a name, which stands before the first; long ones go on indented."""
    for text in texts:
        start = len(text) - len(text.lstrip())
        width = _WIDTH - _NAME_WIDTH
        for part in textwrap.wrap(
            text, width, subsequent_indent=" " * (start + 2), break_on_hyphens=False
        ):
            yield f"{name:{_NAME_WIDTH}}{part}"
            name = ""


def _device(device: DeviceFindings) -> list[str]:
    layers = f"{device.num_input_layers} input and {device.num_output_layers} output"
    threads = "1 thread" if device.num_threads == 1 else f"{device.num_threads} threads"
    return [
        f"{device.model_name}: {layers} of {device.num_layers} layers here; "
        f"{device.processor}, {threads}, {device.engine}",
        *(_weights(times, times.weights == device.chosen) for times in device.weights),
    ]


def _weights(times: WeightsTimes, is_chosen: bool) -> str:
    parts = [
        f"layers {seconds(times.layers.of(1))} for a token, "
        f"{seconds(times.layers.of(100))} for 100",
        f"head {seconds(times.head.of(1))}",
    ]
    if times.draft_token_s is not None:
        parts.append(f"draft {seconds(times.draft_token_s)} a token")
    if times.num_bytes:
        parts.append(num_bytes(times.num_bytes))
    return f"{'*' if is_chosen else ' '} {times.weights:8} {'; '.join(parts)}"


def _memory(memory: Memory) -> str:
    context = num_bytes(1000 * memory.context_token_bytes)
    used = num_bytes(memory.used_bytes)
    return (
        f"{used} used here, {num_bytes(memory.free_bytes)} free; {context} per 1,000 tokens of text"
    )


def _link(link: LinkFindings) -> list[str]:
    rates = f"up {_rate(link.up_bytes_per_s)}, down {_rate(link.down_bytes_per_s)}"
    delay = f"delay {seconds(link.delay_s)} both ways, 1 frame of 10 over {seconds(link.jitter_s)}"
    if link.num_sent_segments is None:
        loss = "what is lost cannot be seen on this system"
    else:
        loss = f"{link.num_lost_segments} of {link.num_sent_segments:,} segments were sent again"
    lines = [f"{delay} more; {rates}", loss]
    if link.coding is not None:
        lines.append(
            f"rows are coded to {link.coding.share:.0%} of their bytes where that is sooner"
        )
    return lines


def _cloud(cloud: CloudFindings) -> list[str]:
    steps = ", ".join(f"{step.num_rows}: {seconds(step.seconds)}" for step in cloud.steps)
    context_s = 1000 * cloud.context.of(1)
    return [
        cloud.url,
        f"computes by rows {steps}",
        f"a token behind 1,000 others takes {seconds(context_s)} more; "
        f"waits {seconds(cloud.queue_s)} for other devices",
        f"context {cloud.max_context_tokens:,} tokens; frames of up to {cloud.max_frame_tokens:,} "
        f"rows of {cloud.row_bytes:,} bytes ({cloud.row_format})",
    ]


def _expect(foretold: Foretold, drafter: str) -> list[str]:
    texts = [
        f"{seconds(prompt.ttft_s)} to the first token of a prompt of {prompt.num_tokens:,}"
        for prompt in foretold.outlook.prompts
    ]
    plain = foretold.outlook.speed
    told = f"then {rate(plain)} ({seconds(plain.token_s)} each) without drafts"
    if foretold.drafted is not None:
        told += f", {rate(foretold.drafted)} with the adapter"
    elif drafter in ("ngram", "suffix"):
        told += "; drafts add what the text repeats"
    return [*texts, told]


def _cost(cost: Cost) -> str:
    return (
        f"{seconds(cost.seconds)} with link and cloud: {num_bytes(cost.bytes_up)} up, "
        f"{num_bytes(cost.bytes_down)} down, {cost.num_rows:,} rows computed"
    )


def _rate(bytes_per_s: float | None) -> str:
    if bytes_per_s is None:
        return "too fast to be measured"
    return f"{number(8 * bytes_per_s / 1e6)} Mbit/s"
