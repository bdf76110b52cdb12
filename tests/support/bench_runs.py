"""Made-up runs, seeded: small ones for tests, and whole sets that look like measured ones."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.records import (
    Cell,
    LinkRecord,
    ModelRecord,
    Receipt,
    RequestRecord,
    Run,
    Span,
    WorkloadRecord,
)

ARMS = (
    "cloud-only",
    "device-only",
    "u-shape",
    "u-sarathi",
    "u-medusa",
    "hat",
    "hat-paper",
    "hat-no-chunking",
    "hat-no-speculation",
    "hat-no-ahead",
)
HIDDEN_BYTES = 1536
LINK = LinkRecord(
    kind="tap",
    uplink_bytes_per_s=1.25e6,
    downlink_bytes_per_s=2.5e6,
    delay_s=0.02,
    measured_rtt_s={"min": 0.0402, "p50": 0.0409, "p90": 0.0431},
    measured_uplink_bytes_per_s=1.22e6,
    measured_downlink_bytes_per_s=2.44e6,
)
MODEL = ModelRecord(
    name="storybook-7m",
    fingerprint="5b1d7c0a" * 8,
    num_layers=8,
    num_input_layers=1,
    num_output_layers=0,
    hidden_size=HIDDEN_BYTES // 4,
    dtype="float32",
    has_real_weights=True,
)
RANDOM_MODEL = msgspec.structs.replace(
    MODEL, name="random-110m", fingerprint="c0ffee00" * 8, has_real_weights=False
)
WORKLOAD = WorkloadRecord(
    name="tinystories",
    arrivals="closed",
    num_devices=1,
    num_requests=6,
    max_output_tokens=24,
    temperature=0.0,
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How an arm behaves in the made-up world."""

    drafts: int = 0
    chunks: bool = False
    ahead: bool = False
    accept: float = 0.0
    local: bool = False
    text_only: bool = False


BEHAVIOUR = {
    "cloud-only": Behaviour(text_only=True),
    "device-only": Behaviour(local=True),
    "u-shape": Behaviour(),
    "u-sarathi": Behaviour(chunks=True),
    "u-medusa": Behaviour(drafts=3, accept=0.55),
    "hat": Behaviour(drafts=4, chunks=True, ahead=True, accept=0.75),
    "hat-paper": Behaviour(drafts=4, chunks=True, ahead=True, accept=0.7),
    "hat-no-chunking": Behaviour(drafts=4, ahead=True, accept=0.75),
    "hat-no-speculation": Behaviour(chunks=True),
    "hat-no-ahead": Behaviour(drafts=4, chunks=True, accept=0.75),
}


def made_up_request(emissions: Sequence[tuple[float, int]], **changed: Any) -> RequestRecord:
    """One request with these pieces; `drafted` and `accepted` are by position."""
    renamed = {"drafted": "drafted_by_position", "accepted": "accepted_by_position"}
    fields: dict[str, Any] = {
        "number": 0,
        "device": 0,
        "prompt_tokens": 16,
        "arrival_s": 0.0,
        "output_sha256": hashlib.sha256(b"text").hexdigest(),
    }
    fields |= {renamed.get(name, name): value for name, value in changed.items()}
    return RequestRecord(emissions=list(emissions), **fields)


def made_up_cell(**changed: Any) -> Cell:
    """A cell of one request, with some fields changed."""
    fields: dict[str, Any] = {
        "arm": "hat",
        "setting": "tinystories x 24, up=10mbit,down=20mbit,rtt=40ms",
        "repeat": 0,
        "model": MODEL,
        "link": LINK,
        "workload": WORKLOAD,
        "requests": [made_up_request([(0.3, 1), (0.4, 2)])],
    }
    return Cell(**(fields | changed))


def made_up_receipt(**changed: Any) -> Receipt:
    """Where a made-up run comes from."""
    fields: dict[str, Any] = {
        "commit": "0123456789ab",
        "command": ["hat", "bench", "live", "--quick"],
        "seed": 7,
        "hardware": "Made-up processor",
        "num_cores": 2,
        "versions": {"Python": "3.11.7", "torch": "2.13.0"},
        "started": "2026-11-20T12:00:00Z",
        "load_average": 0.2,
    }
    return Receipt(**(fields | changed))


def made_up_run(
    seed: int = 0, arms: Sequence[str] = ("cloud-only", "u-shape", "hat"), **changed: Any
) -> Run:
    """One setting, a few arms, two interleaved repeats."""
    cells = [
        realistic_cell(seed, arm, repeat, made_up_cell()) for repeat in range(2) for arm in arms
    ]
    fields = {"kind": "live", "receipt": made_up_receipt(seed=seed), "cells": cells}
    return Run(**(fields | changed))


def with_requests(run: Run, requests: list[RequestRecord]) -> Run:
    """The run's first cell only, with these requests."""
    cell = msgspec.structs.replace(run.cells[0], requests=requests)
    return msgspec.structs.replace(run, cells=[cell])


def live_grid(seed: int = 0, repeats: int = 3) -> Run:
    """Two models, two rates, three round trips, all arms."""
    cells = []
    for repeat in range(repeats):
        for model in (MODEL, RANDOM_MODEL):
            for up in (1.25e6, 6.25e6):
                for delay_s in (0.005, 0.02, 0.05):
                    like = made_up_cell(
                        model=model,
                        link=_link(up, delay_s, "tap"),
                        setting=_setting(up, delay_s),
                    )
                    cells += [realistic_cell(seed, arm, repeat, like) for arm in ARMS]
    return Run(kind="live", receipt=made_up_receipt(seed=seed), cells=cells)


def sim_grid(live: Run, seed: int = 0) -> Run:
    """The same settings from the simulator, a few percent off."""
    cells = []
    for cell in live.cells:
        if cell.repeat == 0 and not BEHAVIOUR[cell.arm].local:
            link = msgspec.structs.replace(
                cell.link,
                kind="simulated",
                measured_rtt_s=None,
                measured_uplink_bytes_per_s=None,
                measured_downlink_bytes_per_s=None,
            )
            notes = ["no garbage collection pauses"] if cell.arm == "u-medusa" else []
            like = msgspec.structs.replace(cell, link=link, notes=notes)
            cells.append(realistic_cell(seed + 1, cell.arm, 0, like, slower=1.04))
    return Run(kind="sim", receipt=_sim_receipt(seed), cells=cells)


def load_sweep(seed: int = 0, replicas: Sequence[int] = (1, 2, 4, 8)) -> Run:
    """A cloud under growing load, by number of replicas."""
    cells = []
    for num_replicas in replicas:
        for per_s in (5, 10, 20, 40, 60, 80, 120, 160):
            load = per_s / (18 * num_replicas)
            workload = msgspec.structs.replace(
                WORKLOAD, name="azure-code", arrivals="poisson", num_devices=1000, num_requests=40
            )
            workload = msgspec.structs.replace(workload, requests_per_s=float(per_s))
            like = made_up_cell(
                setting=f"azure-code x 24, 1000 devices, poisson {per_s}/s",
                link=_link(6.25e6, 0.02, "simulated"),
                workload=workload,
                num_replicas=num_replicas,
            )
            waited = 1 / max(0.08, 1 - load) if load < 1 else 12 * load
            cells += [realistic_cell(seed, arm, 0, like, waited) for arm in ("u-shape", "hat")]
    return Run(kind="sim", receipt=_sim_receipt(seed), cells=cells)


def realistic_cell(seed: int, arm: str, repeat: int, like: Cell, slower: float = 1.0) -> Cell:
    """The arm at the setting of `like`: times from a simple formula with noise."""
    draw = random.Random(f"{seed} {arm} {repeat} {like.setting}")
    behaviour = BEHAVIOUR.get(arm, BEHAVIOUR["hat"])
    maker = _Maker(draw, behaviour, like.link, like.workload, slower)
    requests = [maker.request(number) for number in range(like.workload.num_requests)]
    steps = [] if behaviour.local else [draw.gauss(0.006, 0.0006) for _ in range(50)]
    return msgspec.structs.replace(
        like, arm=arm, repeat=repeat, requests=requests, cloud_step_s=steps
    )


@dataclass
class _Maker:
    draw: random.Random
    arm: Behaviour
    link: LinkRecord
    workload: WorkloadRecord
    slower: float

    def request(self, number: int) -> RequestRecord:
        prompt = random.Random(f"prompt {self.workload.name} {number}").choice(
            (24, 48, 96, 160, 256, 384)
        )
        spans: list[Span] = []
        now_s = self._prefill(prompt, spans)
        emissions = [(now_s, 1)]
        drafted, accepted = [0] * self.arm.drafts, [0] * self.arm.drafts
        left, rounds = self.workload.max_output_tokens - 1, 0
        while left > 0:
            kept = 0
            while kept < self.arm.drafts and self.draw.random() < self.arm.accept:
                kept += 1
            for index in range(self.arm.drafts):
                drafted[index] += 1
                accepted[index] += index < kept
            now_s = self._round(now_s, spans)
            count = min(left, kept + 1)
            emissions.append((now_s, count))
            left, rounds = left - count, rounds + 1
        rows = prompt + rounds * (1 + self.arm.drafts)
        remote = not (self.arm.local or self.arm.text_only)
        return RequestRecord(
            number=number,
            device=number % self.workload.num_devices,
            prompt_tokens=prompt,
            arrival_s=number * (1 / (self.workload.requests_per_s or 0.5)),
            emissions=emissions,
            output_sha256=hashlib.sha256(f"answer {number}".encode()).hexdigest(),
            rounds=rounds if remote else 0,
            drafted_by_position=drafted,
            accepted_by_position=accepted,
            bytes_up=rows * HIDDEN_BYTES if remote else 0 if self.arm.local else 4 * prompt,
            bytes_down=(rows - prompt + 1) * HIDDEN_BYTES if remote else 0,
            chunk_tokens=[prompt],
            seconds=self._seconds(now_s, rounds) if remote else {},
            spans=spans if number == 0 and remote else [],
        )

    def _time(self, seconds: float) -> float:
        return seconds * self.slower * self.draw.lognormvariate(0, 0.06)

    def _prefill(self, prompt: int, spans: list[Span]) -> float:
        if self.arm.local:
            return self._time(0.004 * prompt)
        if self.arm.text_only:
            return 2 * self.link.delay_s + self._time(0.01 + 0.0006 * prompt)
        up_s = prompt * HIDDEN_BYTES / (self.link.uplink_bytes_per_s or 1e8)
        num_chunks = max(1, prompt // 64) if self.arm.chunks else 1
        device_s = sent_s = done_s = 0.0
        size = prompt // num_chunks
        for _ in range(num_chunks):
            bars = [("device", device_s, device_s := device_s + self._time(0.0003 * size))]
            begun = max(device_s, sent_s)
            bars.append(("uplink", begun, sent_s := begun + up_s / num_chunks))
            begun = max(done_s, sent_s + self.link.delay_s)
            bars.append(("cloud", begun, done_s := begun + self._time(0.004 + 0.0005 * size)))
            spans.extend(_span(bar, "prefill", size) for bar in bars)
        back_s = done_s + self.link.delay_s
        spans.append(_span(("downlink", done_s, back_s), "prefill", 1))
        spans.append(_span(("device", back_s, back_s + 0.001), "prefill", 1))
        return back_s + 0.001

    def _round(self, now_s: float, spans: list[Span]) -> float:
        if self.arm.local:
            return now_s + self._time(0.02)
        if self.arm.text_only:
            return now_s + self._time(0.011)
        size = self.arm.drafts + 1
        drafted_s = now_s + self._time(0.0012 * self.arm.drafts * (0.3 if self.arm.ahead else 1))
        sent_s = drafted_s + size * HIDDEN_BYTES / (self.link.uplink_bytes_per_s or 1e8)
        arrived_s = sent_s + self.link.delay_s
        done_s = arrived_s + self._time(0.005)
        back_s = done_s + self.link.delay_s
        bars = [
            ("device", now_s, drafted_s, "draft"),
            ("uplink", drafted_s, arrived_s, "verify"),
            ("cloud", arrived_s, done_s, "verify"),
            ("downlink", done_s, back_s, "verify"),
            ("device", back_s, back_s + 0.001, "verify"),
        ]
        if self.arm.ahead:
            bars.append(("device", sent_s, sent_s + 0.005, "ahead"))
        spans.extend(_span(bar[:3], bar[3], size) for bar in bars if bar[2] > bar[1])
        return back_s + 0.001

    def _seconds(self, total_s: float, rounds: int) -> dict[str, float]:
        parts = {
            "queue": 0.0,
            "open": 0.001,
            "draft": 0.0012 * self.arm.drafts * rounds,
            "input": 0.0004 * rounds,
            "send": 0.0001 * rounds,
            "cloud_queue": 0.0002 * rounds,
            "cloud_compute": 0.005 * rounds,
            "verify": 0.001 * rounds,
            "recovery": 0.0,
            "loop": 0.0003 * rounds,
        }
        return parts | {"link": max(0.0, total_s - sum(parts.values())), "total": total_s}


def _span(bar: tuple[str, float, float], what: str, num_tokens: int) -> Span:
    lane, start_s, end_s = bar
    return Span(lane=lane, what=what, start_s=start_s, end_s=end_s, num_tokens=num_tokens)


def _link(uplink_bytes_per_s: float, delay_s: float, kind: str) -> LinkRecord:
    rtt_s = 2 * delay_s
    return msgspec.structs.replace(
        LINK,
        kind=kind,
        uplink_bytes_per_s=uplink_bytes_per_s,
        downlink_bytes_per_s=2 * uplink_bytes_per_s,
        delay_s=delay_s,
        measured_rtt_s=None if kind == "simulated" else {"min": rtt_s, "p50": rtt_s + 0.0009},
        measured_uplink_bytes_per_s=None if kind == "simulated" else 0.97 * uplink_bytes_per_s,
        measured_downlink_bytes_per_s=None if kind == "simulated" else 1.95 * uplink_bytes_per_s,
    )


def _setting(uplink_bytes_per_s: float, delay_s: float) -> str:
    up = 8e-6 * uplink_bytes_per_s
    return f"tinystories x 24, up={up:g}mbit,down={2 * up:g}mbit,rtt={2000 * delay_s:g}ms"


def _sim_receipt(seed: int) -> Receipt:
    command = ["hat", "bench", "sim", "--seed", str(seed)]
    return made_up_receipt(seed=seed, command=command, started=None, load_average=None)
