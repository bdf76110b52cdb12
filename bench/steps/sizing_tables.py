"""The tables of docs/scaling.md, computed from shapes; nothing here is measured.

`python -m bench.steps.sizing_tables` prints them; `python -m bench.steps.sizing_tables config.json`
prints those of another checkpoint, split as `--input-layers` and `--output-layers` say.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from bench.steps.sizing import GIB, WEIGHT_BITS, Gpus, SplitModel, known_models, model_of

SESSION_TOKENS = 4096
PROMPT_TOKENS = 1000
ROUND_ROWS = 5
"""A verification: the last decided token and four guesses."""

ROUNDS_PER_S = 5
"""Of one generation, where a round takes 0.2 s: a round trip, a draft and a step."""

STEP_ROWS = 512
"""The default of `--step-budget-tokens`."""

_MBIT_PER_S = (5, 10, 40, 100)
_NUM_GENERATIONS = (32, 100, 1000)
_GBIT_PER_S = (10, 100, 400)

_CHOICES = (
    ("16 bit", Gpus(24 * GIB)),
    ("16 bit", Gpus(48 * GIB)),
    ("16 bit", Gpus(80 * GIB)),
    ("4 bit", Gpus(24 * GIB)),
    ("4 bit", Gpus(48 * GIB)),
    ("8 bit", Gpus(80 * GIB)),
    ("8 bit", Gpus(80 * GIB, num_per_stage=2)),
    ("16 bit", Gpus(80 * GIB, num_per_stage=2)),
    ("16 bit", Gpus(80 * GIB, num_per_stage=4)),
    ("16 bit", Gpus(80 * GIB, num_per_stage=8)),
    ("16 bit", Gpus(80 * GIB, num_per_stage=2, num_stages=2)),
)
"""Weights and GPUs; a model gets those where a session fits and the weights are no trifle."""

_LEAST_WEIGHTS = 1 / 8
"""Of a GPU's memory; below that nobody would take so many GPUs, or so few bits."""


def all_tables(models: Sequence[SplitModel]) -> Mapping[str, str]:
    """Every table in markdown, by its name in the document."""
    widths = sorted({model.shape.hidden_size for model in models})
    by_width = [_of_width(models, width) for width in widths]
    return {
        "memory": memory_table(models),
        "capacity": capacity_table(models),
        "device links": link_table(by_width),
        "cloud links": cloud_table(by_width),
        "between GPUs": step_table(models),
    }


def memory_table(models: Sequence[SplitModel]) -> str:
    """Weights on both sides and KV per token and session."""
    head = ["", "layers: device, cloud", "device weights", "cloud weights"]
    head += [f"cloud, {name}" for name in WEIGHT_BITS]
    head += ["KV per token", f"KV of {SESSION_TOKENS:,} tokens", "row on the wire"]
    rows = [
        [
            model.name,
            f"{model.num_input_layers + model.num_output_layers}, {model.num_middle_layers}",
            f"{model.num_device_weights / 1e9:.2f} G",
            f"{model.num_cloud_weights / 1e9:.2f} G",
            *(f"{model.cloud_bytes(bits) / GIB:.1f} GiB" for bits in WEIGHT_BITS.values()),
            f"{model.kv_bytes_per_token / 1024:.0f} KiB",
            f"{SESSION_TOKENS * model.kv_bytes_per_token / GIB:.2f} GiB",
            f"{model.row_bytes / 1024:.0f} KiB",
        ]
        for model in models
    ]
    return _table(head, rows)


def capacity_table(models: Sequence[SplitModel]) -> str:
    """KV positions that GPUs have left beside the weights, and sessions of them."""
    head = ["", "weights", "GPUs", "side by side, stages", "weights per GPU", "KV positions"]
    head += [f"sessions of {SESSION_TOKENS:,}"]
    rows = []
    for model, (name, gpus) in product(models, _CHOICES):
        per_gpu = model.on(gpus, WEIGHT_BITS[name])
        tokens = per_gpu.capacity_tokens
        is_trifle = per_gpu.weight_bytes < _LEAST_WEIGHTS * gpus.memory_bytes
        if tokens < SESSION_TOKENS or is_trifle:
            continue
        sizes = f"{gpus.num_per_stage}, {gpus.num_stages}"
        weights = f"{per_gpu.weight_bytes / GIB:.1f} GiB"
        cells = [model.name, name, str(gpus), sizes, weights, f"{tokens:,}"]
        rows.append([*cells, f"{tokens // SESSION_TOKENS:,}"])
    return _table(head, rows)


def link_table(models: Sequence[SplitModel]) -> str:
    """What a device's uplink carries; a row is as long as the hidden size, not the model."""
    head = ["hidden", "uplink", "rows/s", f"prompt of {PROMPT_TOKENS:,}"]
    head += [f"replay of {SESSION_TOKENS:,}", f"verification of {ROUND_ROWS}"]
    rows = []
    for model, mbit_per_s in product(models, _MBIT_PER_S):
        row_s = 8 * model.row_bytes / (mbit_per_s * 1e6)
        cells = [f"{model.shape.hidden_size}", f"{mbit_per_s} Mbit/s", f"{1 / row_s:.0f}"]
        cells += [f"{PROMPT_TOKENS * row_s:.1f} s", f"{SESSION_TOKENS * row_s:.1f} s"]
        rows.append([*cells, f"{1000 * ROUND_ROWS * row_s:.1f} ms"])
    return _table(head, rows)


def cloud_table(models: Sequence[SplitModel]) -> str:
    """What verifications alone ask of the cloud's network and steps."""
    head = ["hidden", "generations", "rows/s", "each way", f"steps/s of {STEP_ROWS} rows"]
    rows = []
    for model, num_generations in product(models, _NUM_GENERATIONS):
        rows_per_s = num_generations * ROUNDS_PER_S * ROUND_ROWS
        gbit_per_s = 8 * rows_per_s * model.row_bytes / 1e9
        cells = [f"{model.shape.hidden_size}", f"{num_generations:,}", f"{rows_per_s:,}"]
        rows.append([*cells, f"{gbit_per_s:.2f} Gbit/s", f"{rows_per_s / STEP_ROWS:.1f}"])
    return _table(head, rows)


def step_table(models: Sequence[SplitModel]) -> str:
    """What one full step moves between GPUs and nodes, and how long a network takes for it."""
    head = ["hidden, layers", "what", "bytes"] + [f"at {gbit} Gbit/s" for gbit in _GBIT_PER_S]
    rows = []
    sizes = {(model.shape.hidden_size, model.num_middle_layers): model for model in models}
    for (hidden_size, num_layers), model in sizes.items():
        moved = {
            "rows to another node": STEP_ROWS * model.row_bytes,
            "stage to stage": model.stage_bytes(STEP_ROWS),
            "sums of 2 GPUs, each": model.reduce_bytes(STEP_ROWS, 2),
            "sums of 8 GPUs, each": model.reduce_bytes(STEP_ROWS, 8),
        }
        for what, num_bytes in moved.items():
            times = [f"{8 * num_bytes / (gbit * 1e6):.1f} ms" for gbit in _GBIT_PER_S]
            size = f"{num_bytes / 1e6:,.0f} MB"
            rows.append([f"{hidden_size}, {num_layers}", what, size, *times])
    return _table(head, rows)


def _of_width(models: Sequence[SplitModel], hidden_size: int) -> SplitModel:
    return next(model for model in models if model.shape.hidden_size == hidden_size)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = f"| {' | '.join(head)} |\n" + "|---" * len(head) + "|\n"
    return first + "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="*", type=Path, help="config.json of a checkpoint")
    parser.add_argument("--input-layers", type=int, default=2)
    parser.add_argument("--output-layers", type=int, default=0)
    given = parser.parse_args()
    models = []
    for path in given.config:
        name, config = path.absolute().parent.name, json.loads(path.read_text())
        models.append(model_of(name, config, given.input_layers, given.output_layers))
    for name, table in all_tables(models or known_models()).items():
        print(f"\n{name}\n\n{table}")


if __name__ == "__main__":
    main()
