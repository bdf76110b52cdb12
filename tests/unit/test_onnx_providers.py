"""Execution providers: chosen by name or by answers, held against the CPU, with the CPU behind."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest

from device_runtime.config import DeviceConfig, OnnxProvider
from device_runtime.engines.engine_probe import AnswersDifferError, answers_of, check_alike
from device_runtime.engines.loading import load_engine
from device_runtime.engines.onnx_choice import AUTO, Wanted, engine_on
from device_runtime.engines.onnx_engine import load_onnx_engine
from device_runtime.engines.onnx_sessions import (
    CPU,
    PROVIDERS,
    Provider,
    ProviderError,
    open_session,
)
from device_runtime.engines.onnx_stack import OnnxStack, OnnxStackCache
from device_runtime.engines.submodel_engine import EngineLimits, SubmodelEngine, Submodels
from process.errors import StartError
from submodels.random_models import RandomModel, make_random_model
from tests.support.device_engines import logits_in_chunks, random_rows, rows_in_chunks
from tests.support.elsewhere import Array, ElsewhereSession
from tests.support.split_models import random_tokens, split

CUDA = "CUDAExecutionProvider"
COREML = "CoreMLExecutionProvider"
CPU_NAME = "CPUExecutionProvider"

Change = Callable[[Array], Array]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a layer at each end, float32."""
    folder = tmp_path_factory.mktemp("providers")
    make_random_model(RandomModel(), folder / "model")
    split(folder / "model", folder / "bundle", 1, 1, onnx_weights=("float32",))
    return folder / "bundle"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """From now on an ONNX Runtime that has CUDA; what its sessions were asked for."""
    asked: list[dict[str, Any]] = []
    real = onnxruntime.InferenceSession

    def session(path: Path, options: object, **arguments: Any) -> object:
        asked.append({"path": path, "options": options, **arguments})
        if arguments["providers"] == [CPU_NAME]:
            return real(path, options, **arguments)
        return ElsewhereSession(path, arguments["providers"], real)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU_NAME])
    return asked


def test_the_setting_names_what_is_known() -> None:
    assert set(get_args(OnnxProvider)) == {*PROVIDERS, AUTO}
    known = {*onnxruntime.get_all_providers()}
    assert {each.onnx_name for each in PROVIDERS.values()} <= known


def test_a_provider_with_memory_of_its_own_gives_the_rows_of_the_cpu(
    bundle: Path, elsewhere: list[dict[str, Any]]
) -> None:
    """Prompts, drafts, going back, copies and caches that grow: bit for bit, as it is the CPU."""
    on_cpu = load_onnx_engine(bundle, "float32", 1, None)
    there = load_onnx_engine(bundle, "float32", 1, None, provider=Wanted("cuda"))
    assert (on_cpu.runs_on, there.runs_on) == ("cpu", "cuda")
    tokens = random_tokens(300, on_cpu.vocab_size)
    for size in (1, 5, 40, 300):
        both = [engine.open() for engine in (on_cpu, there)]
        one, other = (
            rows_in_chunks(engine, sequence, tokens, size)
            for engine, sequence in zip((on_cpu, there), both, strict=True)
        )
        np.testing.assert_array_equal(one, other)
    deep = random_rows(40, on_cpu.hidden_size)
    one, other = (logits_in_chunks(e, e.open(), deep, 3) for e in (on_cpu, there))
    np.testing.assert_array_equal(one, other)
    found = [answers_of(engine) for engine in (on_cpu, there)]
    assert check_alike(*found) == 0.0


def test_sessions_are_asked_for_with_the_cpu_behind_and_without_a_silent_fallback(
    bundle: Path, elsewhere: list[dict[str, Any]]
) -> None:
    load_onnx_engine(bundle, "float32", 1, None, provider=Wanted("cuda", (("device_id", "1"),)))
    first, last = elsewhere[0], elsewhere[-1]
    assert first["providers"] == [CPU_NAME]
    assert last["providers"] == [CUDA, CPU_NAME]
    assert last["provider_options"] == [{"use_tf32": "0", "device_id": "1"}, {}]
    assert first["enable_fallback"] == last["enable_fallback"] == 0


def test_directml_plans_no_memory(
    bundle: Path, elsewhere: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["DmlExecutionProvider", CPU_NAME]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    load_onnx_engine(bundle, "float32", 1, None, provider=Wanted("directml"))
    assert elsewhere[0]["options"].enable_mem_pattern
    assert not elsewhere[-1]["options"].enable_mem_pattern


def test_caches_that_were_bound_once_are_found_out_by_the_probe(
    bundle: Path, elsewhere: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be wrong on a GPU if caches were bound as they are on the CPU."""
    bind = OnnxStackCache._bind_buffers
    bound: list[OnnxStackCache] = []

    def bind_once(cache: OnnxStackCache) -> None:
        if not any(one is cache for one in bound):
            bound.append(cache)
            bind(cache)

    monkeypatch.setattr(OnnxStackCache, "_bind_buffers", bind_once)
    with pytest.raises(ProviderError, match=r"cuda: it does not answer the probe as the CPU does"):
        load_onnx_engine(bundle, "float32", 1, None, provider=Wanted("cuda"))


def test_on_the_cpu_inputs_stay_bound(bundle: Path) -> None:
    engine = load_onnx_engine(bundle, "float32", 1, None)
    new_cache = engine._submodels.new_input_cache
    assert new_cache is not None
    stack = new_cache.__self__  # type: ignore[attr-defined]
    assert isinstance(stack, OnnxStack)
    assert stack.reads_in_place


def test_a_provider_that_onnx_runtime_lacks_is_refused_by_name(bundle: Path) -> None:
    config = DeviceConfig(bundle, threads=1, onnx_provider="cuda")
    with pytest.raises(StartError) as refused:
        load_engine(config)
    assert "onnx_provider cuda: expected an ONNX Runtime with CUDAExecutionProvider" in str(
        refused.value
    )
    assert "CPUExecutionProvider" in str(refused.value)


def test_auto_is_the_cpu_where_there_is_nothing_else(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the ONNX Runtime that is installed here."""
    with caplog.at_level(logging.INFO):
        engine = load_engine(DeviceConfig(bundle, threads=1, onnx_provider="auto"))
    assert engine.runs_on == "cpu"
    if not {each.onnx_name for each in PROVIDERS.values() if each.is_automatic} & {
        *onnxruntime.get_available_providers()
    }:
        assert "onnx_provider auto: the CPU computes; there is only" in caplog.text


def test_a_provider_that_does_not_start_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a library of CUDA is missing: ONNX Runtime goes on with the CPU alone."""
    graph = next(bundle.glob("device/input*.onnx"))
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, *_, **__: ElsewhereSession(path, [CPU_NAME], real),
    )
    with pytest.raises(ProviderError, match=r"did not start it, .* and took CPUExecutionProvider"):
        open_session(graph, 1, PROVIDERS["cuda"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx_provider_options": ("device_id=1",)}, "expected the name of a provider"),
        ({"onnx_provider": "cuda", "onnx_provider_options": ("1",)}, "expected NAME=VALUE"),
        ({"onnx_provider": "cuda", "engine": "torch"}, "expected engine onnx, got torch"),
    ],
)
def test_settings_that_do_not_go_together(
    bundle: Path, changes: dict[str, Any], message: str
) -> None:
    config = dataclasses.replace(DeviceConfig(bundle, threads=1), **changes)
    with pytest.raises(StartError, match=message):
        load_engine(config)


def _engine(provider: Provider, change: Change) -> SubmodelEngine:
    """An engine whose head is a matrix; `change` is what its logits become."""
    rng = np.random.default_rng(7)
    table = rng.standard_normal((50, 16)).astype(np.float32)
    head = rng.standard_normal((16, 50)).astype(np.float32)
    submodels = Submodels(
        embed=lambda ids: table[ids],
        new_input_cache=None,
        new_output_cache=None,
        head=lambda deep: change(deep @ head),
    )
    return SubmodelEngine(submodels, EngineLimits(16, 50, 64, 0), provider.name)


def _right(array: Array) -> Array:
    return array


def _sixteen_bits(array: Array) -> Array:
    return array.astype(np.float16).astype(np.float32)


def _fails(_: Array) -> Array:
    raise RuntimeError("out of\n memory")


def _one_not_a_number(array: Array) -> Array:
    return np.where(np.arange(array.shape[-1]) == 3, np.float32(np.nan), array)


def _last_two_swapped(array: Array) -> Array:
    """The two likeliest of each row: logits that are close in length may choose otherwise."""
    best = array.argsort(axis=-1)
    swapped = array.copy()
    for row, order in enumerate(best):
        swapped[row, order[-1]], swapped[row, order[-2]] = (
            array[row, order[-2]],
            array[row, order[-1]],
        )
    return swapped


def _with_noise(array: Array) -> Array:
    """Of 3 % of each row's length."""
    noise = np.random.default_rng(1).standard_normal(array.shape).astype(np.float32)
    lengths = np.linalg.norm(array, axis=-1, keepdims=True)
    return array + 0.03 * noise * lengths / np.linalg.norm(noise, axis=-1, keepdims=True)


def _build(by_name: dict[str, Change | Exception]) -> Callable[[Provider], SubmodelEngine]:
    def build(provider: Provider) -> SubmodelEngine:
        change = by_name.get(provider.name, _right)
        if isinstance(change, Exception):
            raise change
        return _engine(provider, change)

    return build


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda array: array * 1.02, r"row of logits \d+ differs by 0\.02 of its length"),
        (lambda array: array + 0.3, "row of logits"),
        (_one_not_a_number, "differs by more than any part"),
        (_last_two_swapped, "row of logits|likeliest token"),
        (_fails, "it fails at the bundle's probe: out of memory"),
        (ProviderError("cannot load head.onnx: no kernel"), "no kernel"),
    ],
)
def test_wrong_answers_refuse_a_named_provider_and_put_it_aside_with_auto(
    answer: Change | Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    build = _build({"cuda": answer})
    with pytest.raises(ProviderError, match=rf"onnx_provider cuda: .*({message})"):
        engine_on(Wanted("cuda"), build, [CUDA, CPU_NAME])
    with caplog.at_level(logging.WARNING):
        assert engine_on(Wanted("auto"), build, [CUDA, CPU_NAME]).runs_on == "cpu"
        assert "onnx_provider auto: cuda is put aside: " in caplog.text
        assert engine_on(Wanted("auto"), build, [CUDA, COREML, CPU_NAME]).runs_on == "coreml"


def test_a_likeliest_token_that_is_another_is_refused_though_the_numbers_are_close() -> None:
    rows = np.zeros((1, 4), np.float32)
    one = np.array([[5.0, 4.9999, 0.0, 1.0]], np.float32)
    other = np.array([[4.9999, 5.0, 0.0, 1.0]], np.float32)
    answers = answers_of(_engine(CPU, _right))
    expected = dataclasses.replace(answers, rows=rows, logits=one)
    with pytest.raises(AnswersDifferError, match="likeliest token is 1, expected 0"):
        check_alike(expected, dataclasses.replace(expected, logits=other))
    assert check_alike(expected, expected) == 0.0


def test_sixteen_bits_are_taken_by_name_with_a_warning_and_not_by_auto(
    caplog: pytest.LogCaptureFixture,
) -> None:
    build = _build({"cuda": _sixteen_bits})
    with caplog.at_level(logging.INFO):
        assert engine_on(Wanted("cuda"), build, [CUDA, CPU_NAME]).runs_on == "cuda"
        assert "cuda does not round as the CPU does" in caplog.text
        assert engine_on(Wanted("auto"), build, [CUDA, CPU_NAME]).runs_on == "cpu"
        assert "name it to have it all the same" in caplog.text


def test_with_integer_weights_more_exact_answers_are_taken_by_name_and_nonsense_is_not() -> None:
    """The CPU rounds there what others may not: a real provider differed by 0.015 to 0.04."""
    near = _build({"cuda": _with_noise})
    far = _build({"cuda": lambda array: array * 1.2})
    available = [CUDA, CPU_NAME]
    with pytest.raises(ProviderError, match=r"expected at most 0\.01"):
        engine_on(Wanted("cuda"), near, available)
    rounded = Wanted("cuda", rounds_on_cpu=True)
    assert engine_on(rounded, near, available).runs_on == "cuda"
    assert engine_on(Wanted("auto", rounds_on_cpu=True), near, available).runs_on == "cpu"
    with pytest.raises(ProviderError, match=r"expected at most 0\.1"):
        engine_on(rounded, far, available)


@pytest.mark.parametrize(("there_s", "chosen"), [(0.5, "cuda"), (1.0, "cpu"), (2.0, "cpu")])
def test_auto_takes_what_saves_time(there_s: float, chosen: str) -> None:
    clock = _Clock()

    def build(provider: Provider) -> SubmodelEngine:
        def head(logits: Array) -> Array:
            clock.now_s += 1.0 if provider is CPU else there_s
            return logits

        return _engine(provider, head)

    wanted = Wanted("auto", clock=clock)
    assert engine_on(wanted, build, [CUDA, CPU_NAME]).runs_on == chosen
    assert engine_on(Wanted("cuda", clock=clock), build, [CUDA, CPU_NAME]).runs_on == "cuda"


def test_one_engine_is_held_at_a_time() -> None:
    alive: list[int] = []

    class Held(SubmodelEngine):
        def __del__(self) -> None:
            alive.pop()

    def build(provider: Provider) -> SubmodelEngine:
        assert not alive, "the one before is still there"
        alive.append(1)
        plain = _engine(provider, _right if provider is CPU else _fails)
        return Held(plain._submodels, plain.limits, provider.name)

    engine = engine_on(Wanted("auto"), build, [CUDA, COREML, CPU_NAME])
    assert engine.runs_on == "cpu"
    assert alive == [1]


@pytest.mark.parametrize("context", [1, 2, 5, 21, 22, 23, 33])
def test_the_probe_fits_into_any_context(context: int) -> None:
    engine = _engine(CPU, _right)
    engine.max_context_tokens = context
    answers = answers_of(engine)
    assert len(answers.rows) == len(answers.logits) >= context
    assert not engine._sequences


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
