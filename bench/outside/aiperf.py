"""aiperf: its command line for our workload, and the records it writes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.live.asking import Ask
from bench.outside.figures import Latency

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


class AiperfError(Exception):
    """aiperf did not write what was expected; the message says what came."""


@dataclass(frozen=True, slots=True)
class AiperfRun:
    """One run of the program `program`, whose files go to `folder`, which is there.

    With `looks_per_s` it looks that often whether the last answer is there and the next request may
    go. Left to itself, it looks without pause: its timing manager then takes the most of a core,
    which the endpoint may have needed.
    """

    program: Path
    folder: Path
    tokenizer: Path
    model: str
    url: str
    asks: Sequence[Ask]
    num_warm_up: int
    looks_per_s: int | None = None

    def command(self) -> list[str]:
        """Write its input file, remove what an earlier run wrote, and tell what to start."""
        (self.folder / _RECORDS).unlink(missing_ok=True)
        prompts = self.folder / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"text": one.prompt}) + "\n" for one in self.asks))
        extra = {"ignore_eos": True, "temperature": 0, "max_tokens": self.asks[0].max_tokens}
        flags: dict[str, Any] = {
            "model": self.model,
            "url": self.url,
            "tokenizer": self.tokenizer.resolve(),
            "input-file": prompts,
            "extra-inputs": json.dumps(extra),
            "request-count": len(self.asks),
            "warmup-request-count": self.num_warm_up,
            "output-artifact-dir": self.folder,
        }
        if self.looks_per_s is not None:
            flags |= {"request-rate": self.looks_per_s, "arrival-pattern": "constant"}
        valued = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        return [str(self.program), "profile", *valued, *_FLAGS.split()]

    def latencies(self) -> list[Latency]:
        """What it measured, request by request, warming up first.

        Raises:
            AiperfError: it wrote no records, or a request failed.
        """
        file = self.folder / _RECORDS
        if not file.is_file():
            raise AiperfError(f"aiperf: expected {file}, found none; run its command by hand")
        records = [json.loads(line) for line in file.read_text().splitlines()]
        failed = [each for each in records if each["error"] is not None]
        if failed:
            raise AiperfError(f"aiperf: {len(failed)} of {len(records)} requests failed")
        records.sort(key=lambda each: int(each["metadata"]["request_start_ns"]))
        return [_latency(each["metrics"]) for each in records]


def _latency(metrics: dict[str, Any]) -> Latency:
    ttft_s, itl_s = (
        metrics[name]["value"] * _SECONDS[metrics[name]["unit"]]
        for name in ("time_to_first_token", "inter_token_latency")
    )
    return Latency(ttft_s, itl_s, int(metrics["output_sequence_length"]["value"]))
