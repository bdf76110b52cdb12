"""aiperf: its command line for our workload, and the records it writes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.live.asking import Ask
from bench.live.processes import LiveError
from bench.outside.comparing import Latency

_RECORDS = "profile_export.jsonl"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}

# Tokens are counted by the server, as for our client. aiperf takes the first chunk for one token,
# since it asks for usage chunk by chunk only where messages are chatted.
_FLAGS = (
    "--endpoint-type completions --streaming --use-server-token-count "
    "--custom-dataset-type single_turn --dataset-sampling-strategy sequential "
    "--concurrency 1 --workers-max 1 --export-level records --no-server-metrics --no-gpu-telemetry "
    "--ui none"
)


@dataclass(frozen=True, slots=True)
class Aiperf:
    """The program `program`, whose files go to `folder`, which is there.

    With `looks_per_s` it looks that often whether the last answer is there and the next request may
    go. Left to itself (0), it looks without pause: its timing manager then takes the most of a
    core, which the endpoint may have needed.
    """

    program: Path
    folder: Path
    tokenizer: Path
    model: str
    looks_per_s: int = 0

    def command(self, url: str, asks: Sequence[Ask], num_warm_up: int) -> list[str]:
        """Write its input file, remove what an earlier run wrote, and tell what to start."""
        (self.folder / _RECORDS).unlink(missing_ok=True)
        prompts = self.folder / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"text": one.prompt}) + "\n" for one in asks))
        extra = {"ignore_eos": True, "temperature": 0, "max_tokens": asks[0].max_tokens}
        flags: dict[str, Any] = {
            "model": self.model,
            "url": url,
            "tokenizer": self.tokenizer.resolve(),
            "input-file": prompts,
            "extra-inputs": json.dumps(extra),
            "request-count": len(asks),
            "warmup-request-count": num_warm_up,
            "output-artifact-dir": self.folder,
        }
        if self.looks_per_s:
            flags |= {"request-rate": self.looks_per_s, "arrival-pattern": "constant"}
        valued = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        return [str(self.program), "profile", *valued, *_FLAGS.split()]

    def latencies(self) -> list[Latency]:
        """What it measured, request by request, warming up first.

        Raises:
            LiveError: it wrote no records, or a request failed.
        """
        file = self.folder / _RECORDS
        if not file.is_file():
            raise LiveError(f"aiperf: expected {file}, found none; run its command by hand")
        records = [json.loads(line) for line in file.read_text().splitlines()]
        if num_failed := sum(each["error"] is not None for each in records):
            raise LiveError(f"aiperf: {num_failed} of {len(records)} requests failed")
        records.sort(key=lambda each: int(each["metadata"]["request_start_ns"]))
        return [_latency(each["metrics"]) for each in records]


def _latency(metrics: dict[str, Any]) -> Latency:
    ttft, itl = metrics["time_to_first_token"], metrics["inter_token_latency"]
    ttft_s, itl_s = (each["value"] * _SECONDS[each["unit"]] for each in (ttft, itl))
    return Latency(ttft_s, itl_s, int(metrics["output_sequence_length"]["value"]))
