"""Which execution provider computes: one that answers as the CPU does, or the CPU."""

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from device_runtime.engines.engine_probe import (
    Answers,
    AnswersDifferError,
    answers_of,
    check_alike,
    is_float32,
)
from device_runtime.engines.onnx_sessions import CPU, PROVIDERS, Provider, ProviderError
from device_runtime.engines.submodel_engine import SubmodelEngine
from process.world import Clock

AUTO = "auto"

Build = Callable[[Provider], SubmodelEngine]
"""Makes the engine of a bundle whose layers and head run on a provider."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings say of providers."""

    name: str = CPU.name
    """One of `PROVIDERS`, or auto."""
    options: tuple[tuple[str, str], ...] = ()
    """Of the provider, over those that it is given by itself."""
    rounds_on_cpu: bool = False
    """Whether the CPU rounds what goes into products, as it does with integer weights."""
    clock: Clock | None = None
    """By which auto compares times; None: it does not."""


def engine_on(wanted: Wanted, build: Build, available: Sequence[str]) -> SubmodelEngine:
    """The engine on the provider that is wanted, or with auto on the best of those `available`.

    Nothing but the CPU is taken unchecked: the bundle's probe must be answered as the CPU answers
    it. A provider that was named may do so in 16 bits; auto must not change answers, and must save
    time where it can be measured.

    Raises:
        ProviderError: the one that was named is not there, cannot be started, or answers otherwise.
    """
    if wanted.name == CPU.name:
        return build(CPU)
    candidates = _candidates(wanted, available)
    if not candidates:
        _log.info("onnx_provider auto: the CPU computes; there is only %s", ", ".join(available))
        return build(CPU)
    expected, cpu_s = _examined(build(CPU), wanted.clock)
    for candidate in candidates:
        # One engine in memory at a time: a device may not hold two.
        gc.collect()
        try:
            return _accepted(build(candidate), expected, cpu_s, wanted)
        except ProviderError as error:
            if wanted.name != AUTO:
                raise ProviderError(f"onnx_provider {candidate.name}: {error}") from error
            # The error itself would keep the engine, if a log kept it.
            _log.warning("onnx_provider auto: %s is put aside: %s", candidate.name, str(error))
    gc.collect()
    return build(CPU)


def _candidates(wanted: Wanted, available: Sequence[str]) -> list[Provider]:
    if wanted.name == AUTO:
        there = [each for each in PROVIDERS.values() if each.onnx_name in available]
        return [each for each in there if each.is_automatic]
    provider = PROVIDERS[wanted.name]
    if provider.onnx_name not in available:
        raise ProviderError(
            f"onnx_provider {wanted.name}: expected an ONNX Runtime with {provider.onnx_name}, "
            f"the one installed has {', '.join(available)}; install one, or choose another"
        )
    return [replace(provider, options=(*provider.options, *wanted.options))]


def _examined(engine: SubmodelEngine, clock: Clock | None) -> tuple[Answers, float]:
    """The CPU's answers, and the seconds it takes for them; the engine is let go."""
    return answers_of(engine), _seconds(engine, clock)


def _accepted(
    engine: SubmodelEngine, expected: Answers, cpu_s: float, wanted: Wanted
) -> SubmodelEngine:
    """The same engine, once it is known to do.

    Raises:
        ProviderError: it does not.
    """
    difference = _checked(engine, expected, wanted.rounds_on_cpu)
    if wanted.name == AUTO:
        _check_worth(engine, difference, cpu_s, wanted.clock)
    if is_float32(difference):
        _log.info("%s answers as the CPU does, to %.1g of a row", engine.runs_on, difference)
    else:
        _log.warning(
            "%s does not round as the CPU does: rows differ by up to %.1g of their length from the "
            "CPU's, so a close choice may fall differently",
            engine.runs_on,
            difference,
        )
    return engine


def _checked(engine: SubmodelEngine, expected: Answers, is_rounded: bool) -> float:
    """How far its answers are from the expected ones.

    Raises:
        ProviderError: too far, or it gives none.
    """
    try:
        return check_alike(expected, answers_of(engine), is_rounded)
    except AnswersDifferError as error:
        raise ProviderError(f"it does not answer the probe as the CPU does: {error}") from error
    except Exception as error:  # ONNX Runtime's own errors have no narrower common ancestor
        reason = " ".join(str(error).split())[:500]
        raise ProviderError(f"it fails at the bundle's probe: {reason}") from error


def _check_worth(
    engine: SubmodelEngine, difference: float, cpu_s: float, clock: Clock | None
) -> None:
    if not is_float32(difference):
        raise ProviderError(
            f"it does not round as the CPU does (a row differs by {difference:.2g} of its length), "
            "which may change answers; name it to have it all the same"
        )
    took_s = _seconds(engine, clock)
    if clock is not None and took_s >= cpu_s:
        raise ProviderError(f"its probe takes {took_s:.3g} s and the CPU's {cpu_s:.3g} s")


def _seconds(engine: SubmodelEngine, clock: Clock | None) -> float:
    """Of a probe, behind one that has warmed up; the better of two."""
    if clock is None:
        return 0.0
    times = []
    for _ in range(2):
        begun_s = clock()
        answers_of(engine)
        times.append(clock() - begun_s)
    return min(times)
