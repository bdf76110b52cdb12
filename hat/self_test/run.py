"""All of a self-test: engines started one after the other, checked, timed and reported."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import MiddleEngine
from cloud_server.engines.host_memory import available_bytes
from hat.self_test.checks import MIN_CONTEXT_TOKENS, Outcome, run_checks, tolerance_of
from hat.self_test.quiet import Quiet
from hat.self_test.random_bundle import (
    NUM_OUTER_LAYERS,
    RandomBundle,
    can_split,
    model_for,
    random_bundle,
    unsplit_bundle,
)
from hat.self_test.report import Column, has_gpu, outcome_line, summary_line, times_table
from hat.self_test.settings import Mode, for_checks, for_random_model, in_mode, modes
from hat.self_test.step_times import CONTEXT_TOKENS, NUM_STEPS, measure
from hat.self_test.streams import OwnStreams, Streams, TransformersStreams
from process.errors import StartError, UserError
from process.program.logs import configure_logs
from process.program.run import FAILED, OK
from submodels.bundle.bundle import load_bundle
from submodels.errors import SplitError

Say = Callable[[str], None]
_Family = Literal["llama", "qwen3"]
_Dtype = Literal["float32", "float16", "bfloat16"]

_LARGE_MODEL_BYTES: Final = 4 << 30
"""Memory that making the larger model and running it takes, with room to spare."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured; tests measure less."""

    num_steps: int = NUM_STEPS
    has_large_model: bool = True


def self_test(config: CloudConfig, has_bundle: bool, say: Say, extent: Extent | None = None) -> int:
    """Check the installation with these settings, a line for each result.

    With `has_bundle` it is `config.bundle` that is checked, otherwise random models are made.

    Returns:
        0 when every check passed, else 1.
    """
    if config.nnodes > 1:
        raise StartError("--self-test checks one machine: leave nnodes out")
    _prepare(config)
    with tempfile.TemporaryDirectory(prefix="hat-self-test-") as folder:
        test = _SelfTest(config, say, Path(folder), extent or Extent())
        if has_bundle:
            test.check_bundle()
        else:
            test.check_random_models()
        return test.conclude()


def _prepare(config: CloudConfig) -> None:
    """Logs and threads as the daemon has them, before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    is_debug = config.log_level == "debug"
    configure_logs("debug" if is_debug else "error", config.log_format)
    if is_debug:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "DEBUG")


class _SelfTest:
    """What has been found so far."""

    def __init__(self, config: CloudConfig, say: Say, folder: Path, extent: Extent) -> None:
        self._config = config
        self._say = say
        self._folder = folder
        self._extent = extent
        self._quiet = Quiet(None if config.log_level == "debug" else folder / "log")
        self._outcomes: list[Outcome] = []
        self._columns: list[Column] = []
        self._begun_s = time.perf_counter()

    def check_random_models(self) -> None:
        """Exactness on small models, then step times on a larger one."""
        config = self._config
        if config.quantization is not None:
            self._say("quantization is left out here: name a BUNDLE to check it")
        if not can_split() and config.engine == "torch":
            self._say(
                "Against transformers: not checked, transformers and tokenizers are not both "
                "installed (pip install 'hat-serving[split]')"
            )
        half: _Dtype = "float16" if config.dtype == "float16" else "bfloat16"
        as_set = modes(config)[0]
        llama = self._make("llama", is_large=False)
        qwen3 = self._make("qwen3", is_large=False) if can_split() else None
        if llama is not None:
            self._check_model(llama, "Llama", "float32", as_set)
            self._check_model(llama, "Llama", half, as_set)
        if qwen3 is not None:
            self._check_model(qwen3, "Qwen3", "float32", "eager")
        self._time_random_model(half, llama)

    def check_bundle(self) -> None:
        """That the cache changes nothing, on the operator's own bundle."""
        mode = modes(self._config)[0]

        def check(engine: MiddleEngine) -> None:
            if engine.max_context_tokens < MIN_CONTEXT_TOKENS:
                raise StartError(
                    f"--self-test needs a context of {MIN_CONTEXT_TOKENS} tokens, this engine "
                    f"has {engine.max_context_tokens}"
                )
            self._run_checks(engine, OwnStreams(engine))
            self._time(engine, mode)

        self._say("The whole model is not here, so transformers is not asked: `hat verify` does.")
        self._with_engine(for_checks(self._config), f"Bundle, {mode}", check)
        self._say_times("the bundle")

    def conclude(self) -> int:
        """The last lines, and the exit code."""
        config, outcomes = self._config, self._outcomes
        seconds = time.perf_counter() - self._begun_s
        summary = summary_line(config, outcomes, self._columns, seconds)
        if not has_gpu() or config.device == "cpu":
            self._say("\nNothing of this ran on a GPU.")
        failed = [outcome for outcome in outcomes if not outcome.passed]
        if failed:
            self._say(f"\n{len(failed)} of {len(outcomes)} checks FAILED.")
        self._say(f"\nThe line to report:\n{summary}")
        return OK if outcomes and not failed else FAILED

    def _make(self, family: _Family, *, is_large: bool) -> RandomBundle | None:
        """A random model's bundle, None if that fails, which is a finding."""
        config = self._config
        model = model_for(
            family, config.tensor_parallel_size, config.pipeline_parallel_size, is_large
        )
        folder = self._folder / f"{family}-{'large' if is_large else 'small'}"
        if not can_split():
            return unsplit_bundle(model, folder)
        try:
            with self._quiet():
                made = random_bundle(model, folder)
        except (SplitError, OSError) as error:
            self._add(Outcome(f"split of {family}", False, str(error)))
            return None
        self._add(Outcome(f"split of {family}", True, _size(made)))
        return made

    def _check_model(self, made: RandomBundle, name: str, dtype: _Dtype, mode: Mode) -> None:
        def check(engine: MiddleEngine) -> None:
            streams: Streams = OwnStreams(engine)
            if made.model is not None:
                streams = TransformersStreams(made.model, NUM_OUTER_LAYERS, made.num_middle_layers)
            self._run_checks(engine, streams)

        config = in_mode(for_random_model(self._config, made.path, dtype), mode)
        self._with_engine(config, f"{name}, {dtype}, {mode}", check)

    def _run_checks(self, engine: MiddleEngine, streams: Streams) -> None:
        self._say(f"  against {streams.source}")
        is_vllm_on_gpu = self._config.engine == "vllm" and has_gpu()
        tolerance = tolerance_of(engine.dtype, is_vllm_on_gpu=is_vllm_on_gpu)
        for outcome in run_checks(engine, streams, tolerance):
            self._add(outcome)

    def _time_random_model(self, dtype: _Dtype, small: RandomBundle | None) -> None:
        is_large = self._extent.has_large_model and can_split()
        if is_large and available_bytes() < _LARGE_MODEL_BYTES:
            self._say(f"Step times: skipped, less than {_LARGE_MODEL_BYTES >> 30} GiB are free")
            return
        made = self._make("llama", is_large=True) if is_large else small
        if made is None:
            return
        for mode in reversed(modes(self._config)):
            config = in_mode(for_random_model(self._config, made.path, dtype), mode)
            self._with_engine(config, f"Step times, {mode}", partial(self._time, mode=mode))
        self._say_times(f"random Llama, {_size(made)}, {dtype}")

    def _time(self, engine: MiddleEngine, mode: Mode) -> None:
        self._columns.append(Column(mode, measure(engine, num_steps=self._extent.num_steps)))

    def _say_times(self, what: str) -> None:
        if not self._columns:
            return
        self._say(
            f"\nStep times in ms, median (90th percentile) of {self._extent.num_steps}, "
            f"behind {CONTEXT_TOKENS} tokens: {what}"
        )
        for line in times_table(self._columns):
            self._say(line)
        if self._config.engine == "vllm":
            self._say("  CUDA graphs: the engine does not use them yet, so they were not run.")

    def _with_engine(
        self, config: CloudConfig, what: str, use: Callable[[MiddleEngine], None]
    ) -> None:
        """Start, use and end an engine; what it refuses is a finding."""
        from cloud_server.engines.chosen import load_chosen_engine

        self._say(f"\n{what}: starting")
        self._quiet.forget()
        begun_s = time.perf_counter()
        try:
            with self._quiet():
                loaded = load_chosen_engine(load_bundle(config.bundle, "cloud"), config)
            try:
                start_s = time.perf_counter() - begun_s
                self._say(f"  {loaded.description}; started in {start_s:.1f} s")
                use(loaded.engine)
            finally:
                with self._quiet():
                    loaded.close()
        except (UserError, MemoryError) as error:
            self._add(Outcome("engine", False, str(error)))
            for line in self._quiet.last_lines():
                self._say(f"    | {line}")

    def _add(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._say(outcome_line(outcome))


def _size(made: RandomBundle) -> str:
    model = made.made_of
    return (
        f"hidden {model.hidden_size}, {made.num_middle_layers} middle layers, "
        f"{model.num_attention_heads} heads"
    )
