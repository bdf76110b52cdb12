"""vLLM's worker processes over tiny models, started once and shared by all tests of a run."""

import atexit
import functools
import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from safetensors.torch import save_file

from cloud_server.config import CloudConfig
from cloud_server.engines.vllm.classes import middle_class
from cloud_server.engines.vllm.engine import EngineShape, VllmMiddleEngine
from cloud_server.engines.vllm.paged_cache import PagedCache
from cloud_server.engines.vllm.plugin import PREFIX
from cloud_server.engines.vllm.start import StartedEngine, start_engine
from tests.support.middle_models import FIRST_LAYER, MAX_CONTEXT, NUM_MIDDLE_LAYERS, MiddleModel
from wire.messages import Dtype
from wire.numbers import NUMPY_DTYPES

HEAD_DIM = 32
"""The least that vLLM's attention on a CPU takes."""

BLOCK_TOKENS = 32
_KV_BYTES = 64 << 20
_MAX_STEP_TOKENS = 2048


# vLLM reads it once in a process, where engines of one and of two workers follow one another.
_CORES = sorted(os.sched_getaffinity(0))
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"{_CORES[0]}|{_CORES[-1]}")


def has_vllm() -> bool:
    """Whether vLLM is installed; nothing of it is imported."""
    return importlib.util.find_spec("vllm") is not None


@dataclass(frozen=True, slots=True)
class Parallel:
    """How many workers share each layer, and how many stages the layers are cut into."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def name(self) -> str:
        """As tests name it: tp1, tp2, pp2."""
        return f"pp{self.pipeline}" if self.pipeline > 1 else f"tp{self.tensor}"


PARALLEL: Mapping[str, Parallel] = MappingProxyType(
    {each.name: each for each in (Parallel(), Parallel(tensor=2), Parallel(pipeline=2))}
)


def vllm_engine(
    middle: MiddleModel, dtype: Dtype, parallel: Parallel, capacity_tokens: int
) -> VllmMiddleEngine:
    """An engine with an empty cache over the workers of this model, which may have run before."""
    started = _workers_of(middle, dtype, parallel)
    shape = EngineShape(middle.shape.hidden_size, dtype, MAX_CONTEXT, _MAX_STEP_TOKENS)
    num_blocks = capacity_tokens // BLOCK_TOKENS
    cache = PagedCache(num_blocks, started.engine.block_tokens, MAX_CONTEXT)
    return VllmMiddleEngine(started.engine.workers, shape, cache)


_STARTED: dict[tuple[str, Dtype, Parallel], StartedEngine] = {}


def _workers_of(middle: MiddleModel, dtype: Dtype, parallel: Parallel) -> StartedEngine:
    key = (middle.family, dtype, parallel)
    if key not in _STARTED:
        folder = _checkpoint(middle)
        _STARTED[key] = start_workers(folder, middle, dtype, parallel)
    return _STARTED[key]


def close_workers() -> None:
    """End all workers that were started."""
    while _STARTED:
        _STARTED.popitem()[1].close()


def start_workers(
    folder: Path, middle: MiddleModel, dtype: Dtype, parallel: Parallel
) -> StartedEngine:
    """Workers of this model's middle layers."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    config = CloudConfig(
        bundle=folder,
        engine="vllm",
        dtype=NUMPY_DTYPES[dtype].name,
        tensor_parallel_size=parallel.tensor,
        pipeline_parallel_size=parallel.pipeline,
        vllm_args=json.dumps({"enforce_eager": True, "block_size": BLOCK_TOKENS}),
    )
    shape = EngineShape(middle.shape.hidden_size, dtype, MAX_CONTEXT, _MAX_STEP_TOKENS)
    layers = range(FIRST_LAYER, FIRST_LAYER + NUM_MIDDLE_LAYERS)
    own = middle_class(middle.shape, layers, parallel.tensor)
    return start_engine(folder, config, shape, _KV_BYTES, own)


@functools.cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="hat-vllm-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _checkpoint(middle: MiddleModel) -> Path:
    """The whole model's weights with a configuration that asks for its middle layers."""
    folder = _folder() / middle.family
    if (folder / "config.json").exists():
        return folder
    folder.mkdir()
    weights = {f"model.{name}": weight for name, weight in middle.model.state_dict().items()}
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = middle.model.config.to_dict() | {
        "architectures": [
            f"{PREFIX}{type(middle.model).__name__.removesuffix('Model')}ForCausalLM"
        ],
        "num_hidden_layers": NUM_MIDDLE_LAYERS,
        "hat_first_layer": FIRST_LAYER,
        "tie_word_embeddings": False,
    }
    if config.get("layer_types"):
        last = FIRST_LAYER + NUM_MIDDLE_LAYERS
        config["layer_types"] = config["layer_types"][FIRST_LAYER:last]
        if "max_window_layers" in config:
            config["max_window_layers"] = config["layer_types"].count("full_attention")
    if config.get("per_layer_config"):
        each = {int(layer): own for layer, own in config["per_layer_config"].items()}
        numbers = range(NUM_MIDDLE_LAYERS)
        kept = {n: each[n + FIRST_LAYER] for n in numbers if n + FIRST_LAYER in each}
        config["per_layer_config"] = kept
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return folder
