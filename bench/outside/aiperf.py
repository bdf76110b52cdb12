"""aiperf: its command line for our workload, and the records it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.live.asking import Ask
from bench.outside.figures import Latency

_RECORDS = "profile_export.jsonl"
_SWITCHES = (
    "--streaming",
    "--use-server-token-count",
    "--no-server-metrics",
    "--no-gpu-telemetry",
)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


class AiperfError(Exception):
    """aiperf did not write what was expected; the message says what came."""


@dataclass(frozen=True, slots=True)
class AiperfRun:
    """One run of the program `program`, whose files go to `folder`.

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
        """Write its input file, and tell what to start.

        Tokens are counted by the server, as for our client. aiperf takes the first chunk for one
        token, since it asks for usage chunk by chunk only where messages are chatted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        prompts = self.folder / "prompts.jsonl"
        lines = [msgspec.json.encode({"text": each.prompt}) for each in self.asks]
        prompts.write_bytes(b"\n".join(lines) + b"\n")
        extra = {"ignore_eos": True, "temperature": 0, "max_tokens": self.asks[0].max_tokens}
        flags: dict[str, Any] = {
            "model": self.model,
            "url": self.url,
            "endpoint-type": "completions",
            "tokenizer": self.tokenizer.resolve(),
            "input-file": prompts,
            "custom-dataset-type": "single_turn",
            "dataset-sampling-strategy": "sequential",
            "extra-inputs": msgspec.json.encode(extra).decode(),
            "request-count": len(self.asks),
            "warmup-request-count": self.num_warm_up,
            "concurrency": 1,
            "workers-max": 1,
            "output-artifact-dir": self.folder,
            "export-level": "records",
            "ui": "none",
        }
        if self.looks_per_s is not None:
            flags |= {"request-rate": self.looks_per_s, "arrival-pattern": "constant"}
        valued = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        return [str(self.program), "profile", *valued, *_SWITCHES]

    def latencies(self) -> list[Latency]:
        """What it measured, request by request, warming up first.

        Raises:
            AiperfError: it wrote no records, or a request failed.
        """
        file = self.folder / _RECORDS
        if not file.is_file():
            raise AiperfError(f"aiperf: expected {file}, found none; run its command by hand")
        records = [msgspec.json.decode(line, type=_Record) for line in file.open("rb")]
        failed = [each for each in records if each.error is not None]
        if failed:
            raise AiperfError(f"aiperf: {len(failed)} of {len(records)} requests failed")
        records.sort(key=lambda each: each.metadata.request_start_ns)
        return [each.latency() for each in records]


class _Value(msgspec.Struct):
    value: Any
    unit: str

    @property
    def seconds(self) -> float:
        return float(self.value) * _SECONDS[self.unit]


class _Metadata(msgspec.Struct):
    request_start_ns: int


class _Record(msgspec.Struct):
    metadata: _Metadata
    metrics: dict[str, _Value]
    error: Any = None

    def latency(self) -> Latency:
        return Latency(
            self.metrics["time_to_first_token"].seconds,
            self.metrics["inter_token_latency"].seconds,
            int(self.metrics["output_sequence_length"].value),
        )
