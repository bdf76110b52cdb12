"""One step of the torch middle engine over many sessions, against the same sessions one by one.

`python -m bench.steps.middle_step` runs both in turn, in one process, on the same random weights:
one ragged step of the engine, then each session by itself through `transformers`' layers with its
own cache, as a server without batching would. Both truncate to the same length before each step.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.machine import machine_lines
from cloud_server.config import CloudConfig
from cloud_server.engines.engine import MiddleEngine, StepItem
from cloud_server.engines.torch.bundle import load_torch_engine
from cloud_server.engines.torch.rows import rows_of
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from wire.messages import Want

_NUM_HEADS = 12


@dataclass(frozen=True, slots=True)
class Load:
    """How many sessions of how many cached tokens send how many rows, through which layers."""

    num_sessions: int = 32
    num_rows: int = 5
    num_cached: int = 128
    hidden_size: int = 768
    num_layers: int = 8
    num_steps: int = 20
    threads: int = 1


def main() -> None:
    """Measure, and print the ratio with what it was measured on."""
    load = _load_from_arguments()
    lines = machine_lines()
    with tempfile.TemporaryDirectory() as folder:
        batched_s, single_s, largest_error = measure(load, Path(folder))
    print("\n".join(lines))
    print(
        f"load: {load.num_sessions} sessions x {load.num_rows} rows, {load.num_cached} cached "
        f"tokens each, hidden {load.hidden_size}, {load.num_layers} layers, bfloat16, "
        f"{load.threads} threads, {load.num_steps} steps of each, in turn"
    )
    for name, times_s in (("engine, one step", batched_s), ("one by one", single_s)):
        quick, middle = min(times_s), statistics.median(times_s)
        print(f"{name}: median {1000 * middle:.1f} ms, least {1000 * quick:.1f} ms")
    ratios = [single / batched for single, batched in zip(single_s, batched_s, strict=True)]
    print(f"ratio: {statistics.median(ratios):.2f} (median of pairs)")
    print(f"largest difference of a state, relative to the largest state: {largest_error:.4f}")


def measure(load: Load, folder: Path) -> tuple[list[float], list[float], float]:
    """Times in seconds of both ways, step by step, and how far their results are apart."""
    bundle = random_bundle(_model(load), folder)
    config = CloudConfig(bundle.path, dtype="bfloat16", threads=load.threads, device="cpu")
    engine = load_torch_engine(bundle, config).engine
    torch.set_num_threads(load.threads)
    states = random_states(load)
    batched = Sessions(engine, load, states).step
    single = _one_by_one(_checkpoint_folder(folder), load, states)
    batched()
    single()
    batched_s: list[float] = []
    single_s: list[float] = []
    for _ in range(load.num_steps):
        batched_s.append(timed(batched))
        single_s.append(timed(single))
    return batched_s, single_s, largest_error(batched(), single())


def random_bundle(model: RandomModel, folder: Path) -> Bundle:
    """A cloud bundle of random weights with all layers; the checkpoint lies beside."""
    whole = _checkpoint_folder(folder)
    make_random_model(model, whole)
    options = SplitOptions(str(whole), folder / "split", 0, onnx_weights=())
    return load_bundle(split_checkpoint(options).out, "cloud")


def _checkpoint_folder(folder: Path) -> Path:
    return folder / "model"


def random_states(load: Load) -> torch.Tensor:
    """Rows of every session `[sessions, cached and new, H]`, in bfloat16."""
    sizes = (load.num_sessions, load.num_cached + load.num_rows, load.hidden_size)
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


class Sessions:
    """A load's sessions on one engine, with their cached rows."""

    def __init__(self, engine: MiddleEngine, load: Load, states: torch.Tensor) -> None:
        self._engine = engine
        self._sequences = [engine.open(states.shape[1]) for _ in states]
        for sequence, rows in zip(self._sequences, states, strict=True):
            engine.step([StepItem(sequence, 0, rows_of(rows[: load.num_cached]), Want.NONE)])
        self._batch = [
            StepItem(sequence, load.num_cached, rows_of(rows[load.num_cached :].clone()), Want.ALL)
            for sequence, rows in zip(self._sequences, states, strict=True)
        ]

    def step(self) -> Sequence[np.ndarray]:
        """The new rows of all of them through the engine in one step, with what comes back."""
        return self._engine.step(self._batch)

    def close(self) -> None:
        """Give their room back."""
        for sequence in self._sequences:
            self._engine.release(sequence)


def _one_by_one(model: Path, load: Load, states: torch.Tensor) -> Callable[[], list[np.ndarray]]:
    """`transformers`' decoder without its last norm, which the middle does not have."""
    from transformers import AutoModel, DynamicCache
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    layers: Any = AutoModel.from_pretrained(model, dtype=torch.bfloat16).eval()
    layers.norm = torch.nn.Identity()
    caches = [DynamicCache() for _ in states]

    @torch.inference_mode()
    def run_one(cache: Any, rows: torch.Tensor) -> torch.Tensor:
        out = layers(inputs_embeds=rows[None], past_key_values=cache, use_cache=True)
        deep: torch.Tensor = out.last_hidden_state[0]
        return deep

    for cache, rows in zip(caches, states, strict=True):
        run_one(cache, rows[: load.num_cached])

    def run() -> list[np.ndarray]:
        answers = []
        for cache, rows in zip(caches, states, strict=True):
            answers.append(run_one(cache, rows[load.num_cached :]).float().numpy())
            cache.crop(-load.num_rows)
        return answers

    return run


def largest_error(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The largest difference of a state, relative to the largest state."""
    left, right = (np.concatenate(rows).astype(np.float32) for rows in (ours, theirs))
    return float(np.abs(left - right).max() / np.abs(right).max())


def timed(run: Callable[[], object]) -> float:
    """How many seconds it takes."""
    begun_s = time.perf_counter()
    run()
    return time.perf_counter() - begun_s


def _model(load: Load) -> RandomModel:
    return RandomModel(
        num_layers=load.num_layers,
        hidden_size=load.hidden_size,
        intermediate_size=load.hidden_size * 8 // 3,
        num_attention_heads=_NUM_HEADS,
        num_key_value_heads=_NUM_HEADS,
        dtype="bfloat16",
    )


def _load_from_arguments() -> Load:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Load()
    for name in Load.__dataclass_fields__:
        value = getattr(default, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    return Load(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
