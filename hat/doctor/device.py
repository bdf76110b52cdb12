"""How long the device's own parts take, at each precision that its bundle has."""

import gc
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from chunking.averages import RobustAverage
from chunking.cost import LinearTime
from chunking.line_estimator import LineEstimator
from cloud_server.engines.host_memory import available_bytes
from device_runtime.config import DeviceConfig, Weights
from device_runtime.engines.checks import num_threads
from device_runtime.engines.engine import DeviceEngine, DraftLimits, Rows
from device_runtime.engines.loading import load_engine
from device_runtime.engines.timing import measured_draft_step_s, some_token_ids, typical_s
from process.machine import processor
from process.world import Clock
from submodels.bundle.bundle import Bundle
from submodels.manifest import Manifest
from submodels.onnx.files import WEIGHTS_FORMATS, Graph, graph_file
from submodels.tensors.tensor_layout import Part

_CHUNK_SIZES = (1, 5, 16, 64, 256)
"""Rows of a round, of a round with a draft, and of chunks of a prompt."""

MOST_ROWS = 512
"""Of a frame that is sent to find out how long the cloud takes for it."""

_HEAD_SIZES = (1, 5)


@dataclass(frozen=True, slots=True)
class WeightsTimes:
    """One precision of the device's parts."""

    weights: str
    """float32, int8 or int4; with the torch engine its float32."""
    layers: LinearTime
    """The input layers over the rows of a frame, embedding included."""
    head: LinearTime
    """Output layers and head over the rows that tokens are chosen from."""
    draft_token_s: float | None
    """One token of the adapter's drafts; None where nothing is drafted by a model."""
    num_bytes: int
    """Of the files of input layers, output layers and head."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of this machine's memory."""

    used_bytes: int
    """The most that this process has had, with one precision after the other."""
    free_bytes: int
    """What may still be taken, within the container's limit if there is one."""
    context_token_bytes: int
    """Keys and values of one position on the device, in float32."""


@dataclass(frozen=True, slots=True)
class DeviceFindings:
    """What this device can do."""

    processor: str
    num_threads: int
    model_name: str
    num_layers: int
    num_input_layers: int
    num_output_layers: int
    max_context_tokens: int
    engine: str
    chosen: str
    """The precision that `hat device` would use with the same settings."""
    draft_limits: DraftLimits | None
    """Where the adapter's drafts end; None where these settings draft with none."""
    weights: tuple[WeightsTimes, ...]
    memory: Memory

    @property
    def now(self) -> WeightsTimes:
        """The times of the chosen precision."""
        return next(each for each in self.weights if each.weights == self.chosen)


def examine_device(
    config: DeviceConfig, bundle: Bundle, clock: Clock
) -> tuple[DeviceFindings, Rows]:
    """Times of every precision, and shallow rows `[T, H]` as the configured one makes them.

    There are `MOST_ROWS` of these, or as many as the context holds.

    Raises:
        StartError, BundleError: the configured engine cannot be loaded.
    """
    manifest = bundle.manifest
    shape = manifest.shape
    found: list[WeightsTimes] = []
    for weights in _weights_of(config, manifest):
        gc.collect()
        engine = load_engine(replace(config, weights=weights), clock)
        found.append(_times_of(engine, replace(config, weights=weights), manifest, clock))
    found.sort(key=lambda times: WEIGHTS_FORMATS.index(times.weights))
    ids = some_token_ids(min(MOST_ROWS, engine.max_context_tokens), shape.vocab_size)
    rows = engine.input_rows(engine.open(), ids, 0)
    own_layers = set(range(shape.num_layers)) - set(manifest.middle_layers)
    findings = DeviceFindings(
        processor=processor(),
        num_threads=num_threads(config.threads),
        model_name=manifest.model_name,
        num_layers=shape.num_layers,
        num_input_layers=manifest.num_input_layers,
        num_output_layers=manifest.num_output_layers,
        max_context_tokens=engine.max_context_tokens,
        engine=_engine_name(config, engine),
        chosen=_name(config),
        draft_limits=engine.draft_limits,
        weights=tuple(found),
        memory=Memory(
            used_bytes=_peak_bytes(),
            free_bytes=available_bytes(),
            context_token_bytes=4 * shape.num_cached(own_layers),
        ),
    )
    return findings, rows


def _weights_of(config: DeviceConfig, manifest: Manifest) -> Sequence[Weights]:
    """The configured precision comes last."""
    if config.engine == "torch":
        return (config.weights,)
    others = [weights for weights in WEIGHTS_FORMATS if weights in manifest.onnx_weights]
    return (*(weights for weights in others if weights != config.weights), config.weights)


def _engine_name(config: DeviceConfig, engine: DeviceEngine) -> str:
    return config.engine + ("" if engine.runs_on == "cpu" else f" on {engine.runs_on}")


def _name(config: DeviceConfig) -> Weights:
    return config.weights if config.engine == "onnx" else "float32"


def _times_of(
    engine: DeviceEngine, config: DeviceConfig, manifest: Manifest, clock: Clock
) -> WeightsTimes:
    sequence = engine.open()
    context = engine.max_context_tokens
    ids = some_token_ids(min(max(_CHUNK_SIZES), context), engine.vocab_size)
    sizes = [size for size in _CHUNK_SIZES if size <= len(ids)]
    layers = _line(sizes, lambda size: engine.input_rows(sequence, ids[:size], 0), clock)
    rows = engine.input_rows(sequence, ids, 0)
    head = _line(_HEAD_SIZES, lambda size: engine.logits(sequence, rows[:size], 0, size), clock)
    draft_token_s = None
    if engine.draft_limits is not None:
        draft_token_s = measured_draft_step_s(engine, clock)
    engine.release(sequence)
    return WeightsTimes(_name(config), layers, head, draft_token_s, _file_bytes(config, manifest))


def _file_bytes(config: DeviceConfig, manifest: Manifest) -> int:
    graphs = (Graph.INPUT, Graph.OUTPUT, Graph.HEAD)
    names = [graph_file(graph, config.weights) for graph in graphs]
    if config.weights == "float32":
        # Their matrices are those of the tensor files.
        names += [Part.INPUT.value, Part.OUTPUT.value]
    return sum(file.num_bytes for name, file in manifest.files.items() if name in names)


def _line(sizes: Sequence[int], call: Callable[[int], object], clock: Clock) -> LinearTime:
    """Seconds over rows, through the typical time of each size."""
    line = LineEstimator(RobustAverage)
    for size in sizes:
        line.add(size, typical_s(partial(call, size), clock))
    assert line.line is not None, "it was given some"
    return line.line


def _peak_bytes() -> int:
    """The unit is the system's: KiB, or bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
