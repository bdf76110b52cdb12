"""Sessions that decode beside one that sends a long prompt: what each pays.

`python -m bench.steps.contention` drives the production core and step runner with a real engine on
the real clock, without sockets; with `--simulated-ms` an engine of such times, on a clock that
passes nothing else. Decoding sessions verify a few rows, are away
for as long as link and device would take, and verify again. The prompt comes in frames, at once or
as fast as an uplink brings them. A prompt alone, decoders alone and both are measured in turns.

Where decoders alone take a share U of the engine, and beside a prompt their rounds last t times as
long and the prompt r times as long, no scheduler does better than 1 / r = 1 - U / t, but for what
rows of both in one step save.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bench.machine import machine_lines
from bench.steps.decoders_and_prompts import Bench, Load, Result, measure
from bench.steps.middle_step import random_bundle
from bench.steps.worlds import CONTEXT, LiveWorld, SimulatedWorld, StepTimes
from cloud_server.config import CloudConfig
from cloud_server.core.config import CoreConfig
from cloud_server.core_settings import core_settings
from cloud_server.engines.chosen import loader_for
from cloud_server.engines.engine import MiddleEngine
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.coding_file import read_channel_scales
from submodels.random_models import RandomModel
from wire.numbers import NUMPY_DTYPES, pack_rows


def _row(name: str, load: Load, each: Result) -> str:
    tbt, ttft = each.beside_s[1] / each.quiet_s[1], each.prompt_s / each.alone_s
    least = 1 / max(1e-9, 1 - each.share / 1.5)
    bound = f"{least:.2f}" if each.share < 1.5 and least > 0 else "none"
    times = [*each.quiet_s, *each.beside_s, each.alone_s, each.prompt_s]
    shown = " | ".join(f"{1000 * seconds:.1f}" for seconds in times)
    return (
        f"| {name} | {1000 * load.away_s:.0f} | {each.share:.2f} | {shown} | {tbt:.2f} | "
        f"{ttft:.2f} | {bound} |"
    )


@contextmanager
def _bundle(path: Path | None) -> Iterator[Bundle]:
    """The bundle that was named, or a random middle of 8 layers of 512."""
    if path is not None:
        yield load_bundle(path, "cloud")
        return
    with tempfile.TemporaryDirectory() as folder:
        model = RandomModel(
            hidden_size=512,
            num_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            intermediate_size=1408,
            max_context_tokens=CONTEXT,
            dtype="bfloat16",
        )
        yield random_bundle(model, Path(folder))


def main() -> None:
    """Measure and print a table."""
    chosen = _chosen()
    if chosen.simulated_ms is not None:
        times = StepTimes(*(milliseconds / 1000 for milliseconds in chosen.simulated_ms))
        lines = [f"simulated: {times}"]
        rows = _rows(chosen, partial(_simulated, times))
    else:
        lines = machine_lines()
        description, rows = _live(chosen)
        lines.append(description)
    print("\n".join(lines))
    print(f"{chosen.decoders} sessions decode, 5 rows a round; ms")
    print(
        "| target s | away | share quiet | round P50 quiet | P99 | P50 beside | P99 | "
        "prompt alone | beside | round P99 ratio | prompt ratio | least at 1.5 |"
    )
    print("|" + "---|" * 12)
    print("\n".join(rows))


def _live(chosen: argparse.Namespace) -> tuple[str, list[str]]:
    """What the engine says of itself, and a row for each setting."""
    with _bundle(chosen.bundle) as bundle:
        config = CloudConfig(
            bundle.path,
            engine=chosen.engine,
            max_context_tokens=CONTEXT,
            capacity_tokens=(chosen.decoders + 2) * CONTEXT,
            identity_share=1.0,
            threads=chosen.threads if chosen.engine == "torch" else None,
            vllm_args=chosen.vllm_args if chosen.engine == "vllm" else None,
        )
        loaded = loader_for(config)(bundle, config)
        try:
            channels = read_channel_scales(bundle)
            settings = core_settings(config, bundle.manifest, loaded.engine, channels)
            rows = _rows(chosen, partial(_on_engine, settings, loaded.engine))
        finally:
            loaded.close()
    return loaded.description, rows


def _on_engine(settings: CoreConfig, engine: MiddleEngine, target_s: float, load: Load) -> Bench:
    shape = (settings.max_frame_tokens, settings.hidden_size)
    numbers = np.random.default_rng(0).standard_normal(shape)
    payload = bytes(pack_rows(numbers.astype(NUMPY_DTYPES[settings.dtype]), settings.dtype))
    world = LiveWorld(engine, settings.dtype)
    return Bench(replace(settings, target_step_s=target_s), world, load, payload)


def _simulated(times: StepTimes, target_s: float, load: Load) -> Bench:
    world = SimulatedWorld(times)
    settings = replace(world.settings(load.num_decoders), target_step_s=target_s)
    return Bench(settings, world, load, bytes(world.row_bytes * settings.max_frame_tokens))


def _rows(chosen: argparse.Namespace, make: Callable[[float, Load], Bench]) -> list[str]:
    """A row for each setting."""
    rows = []
    for target_s, away_ms in itertools.product(chosen.target_step_s, chosen.away_ms):
        load = Load(
            num_decoders=chosen.decoders,
            away_s=away_ms / 1000,
            away_spread=chosen.away_spread,
            uplink_rows_per_s=chosen.uplink_rows_per_s,
        )
        bench = make(target_s, load)
        result = measure(bench, chosen.decoders, chosen.prompts, chosen.quiet_s)
        rows.append(_row(f"{target_s:g}", load, result))
    return rows


def _chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", help="folder of hat split; else random")
    parser.add_argument("--engine", choices=("torch", "vllm"), default="torch")
    parser.add_argument(
        "--simulated-ms",
        type=float,
        nargs=4,
        metavar=("FIXED", "SEQUENCE", "ROW", "PAIR"),
        help="no engine: what a step, a sequence, a row, and a row's position before it take",
    )
    parser.add_argument("--vllm-args", default='{"enforce_eager": true}')
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target-step-s", type=float, nargs="+", default=[0.25])
    parser.add_argument("--away-ms", type=float, nargs="+", default=[0, 40, 100])
    parser.add_argument("--away-spread", type=float, default=0.0, help="0.3: 30 %% more or less")
    parser.add_argument("--uplink-rows-per-s", type=float)
    parser.add_argument("--decoders", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--quiet-s", type=float, default=4.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
