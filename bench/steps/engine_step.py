"""Steps of the middle on vLLM against the same steps on the torch engine, in turn, in one run.

`python -m bench.steps.engine_step` needs vLLM beside torch. Both engines load the same random
weights and get the same rows; each step of one is followed by the same step of the other. vLLM's
worker and the torch engine have one core each to compute on. What a step on vLLM takes beyond its
model call is our own: the plan, the way to the worker and back, metadata, splitting. It is taken
from steps of vLLM one behind the other, as a server runs them.
"""

import argparse
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.machine import machine_lines
from bench.steps.middle_step import (
    Load,
    Sessions,
    largest_error,
    random_bundle,
    random_states,
    timed,
)
from cloud_server.config import CloudConfig
from cloud_server.engines.engine import MiddleEngine
from cloud_server.engines.torch.bundle import load_torch_engine
from cloud_server.engines.vllm.classes import MiddleClass
from cloud_server.engines.vllm.engine import EngineShape
from cloud_server.engines.vllm.start import StartedEngine, start_engine
from submodels.bundle.bundle import Bundle
from submodels.random_models import RandomModel
from wire.messages import Dtype

_HIDDEN, _LAYERS, _HEADS = 1024, 8, 16
_CONTEXT, _MOST_ROWS = 1024, 1024
_KV_BYTES = 512 << 20


LOADS = tuple(
    Load(num_sessions, num_rows, hidden_size=_HIDDEN, num_layers=_LAYERS)
    for num_sessions, num_rows in ((1, 8), (8, 5), (32, 5), (1, 256))
)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, step by step; `beyond_s` is what vLLM's steps took outside the model call."""

    load: Load
    vllm_s: list[float]
    torch_s: list[float]
    beyond_s: list[float]
    largest_error: float


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-steps", type=int, default=30)
    parser.add_argument("--compiled", action="store_true", help="torch.compile in vLLM")
    chosen = parser.parse_args()
    # One core for the worker, as for the torch engine.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", str(max(os.sched_getaffinity(0))))
    torch.set_num_threads(1)
    lines = machine_lines()
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(Path(folder))
        config = CloudConfig(bundle.path, dtype="bfloat16", threads=1, device="cpu")
        plain = load_torch_engine(bundle, config).engine
        started = _started(bundle, chosen.compiled)
        try:
            # The worker has bound itself to the other core.
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            results = [measure(load, started, plain, chosen.num_steps) for load in LOADS]
        finally:
            started.close()
    print("\n".join(lines))
    how = "compiled" if chosen.compiled else "eager"
    print(f"{started.version}, {how}, {started.facts[0].attention[0]}; hidden {_HIDDEN}, ", end="")
    print(f"{_LAYERS} layers, bfloat16, {LOADS[0].num_cached} cached tokens, medians")
    print("| sessions x rows | vLLM ms | torch ms | torch / vLLM | beyond the model ms | error |")
    print("|---|---|---|---|---|---|")
    for each in results:
        print(_row(each))


def measure(load: Load, started: StartedEngine, plain: MiddleEngine, num_steps: int) -> Times:
    """The same steps on both, in turn; every second pair the other way round."""
    states = random_states(load)
    both = [Sessions(engine, load, states) for engine in (started.engine, plain)]
    times_s: tuple[list[float], list[float]] = ([], [])
    for number in range(num_steps + 2):
        for index in (0, 1) if number % 2 else (1, 0):
            seconds = timed(both[index].step)
            if number >= 2:
                times_s[index].append(seconds)
    error = largest_error(both[0].step(), both[1].step())
    beyond_s = [timed(both[0].step) - started.workers.model_s() for _ in range(num_steps)]
    for sessions in both:
        sessions.close()
    return Times(load, times_s[0], times_s[1], beyond_s, error)


def _row(times: Times) -> str:
    ratios = [slow / quick for slow, quick in zip(times.torch_s, times.vllm_s, strict=True)]
    middle = statistics.median
    return (
        f"| {times.load.num_sessions} x {times.load.num_rows} | "
        f"{1000 * middle(times.vllm_s):.2f} | "
        f"{1000 * middle(times.torch_s):.2f} | {middle(ratios):.2f} | "
        f"{1000 * middle(times.beyond_s):.2f} | {times.largest_error:.4f} |"
    )


def _bundle(folder: Path) -> Bundle:
    model = RandomModel(
        hidden_size=_HIDDEN,
        num_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        intermediate_size=_HIDDEN * 11 // 4,
        max_context_tokens=_CONTEXT,
        dtype="bfloat16",
    )
    return random_bundle(model, folder)


def _started(bundle: Bundle, is_compiled: bool) -> StartedEngine:
    arguments = '{"enforce_eager": false}' if is_compiled else '{"enforce_eager": true}'
    config = CloudConfig(bundle.path, engine="vllm", dtype="bfloat16", vllm_args=arguments)
    shape = EngineShape(_HIDDEN, Dtype.BF16, _CONTEXT, _MOST_ROWS)
    return start_engine(bundle.path, config, shape, _KV_BYTES, MiddleClass((_HIDDEN // _HEADS,)))


if __name__ == "__main__":
    main()
