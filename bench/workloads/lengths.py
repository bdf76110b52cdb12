"""How long prompts and answers are, for simulations that need no text."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean

from bench.workloads.arrivals import TRACES, trace_window
from bench.workloads.data_files import WorkloadError, prompt_rows

SPEC_BENCH, CNN_DM = "spec-bench", "cnn-dm"
LENGTHS = (SPEC_BENCH, CNN_DM, *TRACES)
"""What `lengths` knows."""

# Prompts of the paper's two workloads, and its cap on answers, which few of them stay below.
# Source: arXiv:2503.18989, section on the experimental settings.
SPEC_BENCH_MEAN_TOKENS, SPEC_BENCH_P90_TOKENS = 351.2, 891.0
CNN_DM_MEAN_TOKENS, CNN_DM_P90_TOKENS = 1036.6, 1772.0
PAPER_OUTPUT_TOKENS = 128

_Z90 = NormalDist().inv_cdf(0.9)


@dataclass(frozen=True, slots=True)
class Lengths:
    """One request's tokens, both 1 or more."""

    prompt_tokens: int
    output_tokens: int


def lengths(
    name: str, num_requests: int, seed: int, output_tokens: int = PAPER_OUTPUT_TOKENS
) -> list[Lengths]:
    """Lengths of `num_requests` requests, a function of the arguments alone.

    azure-conv, azure-code: those of the requests that `arrivals` takes with the same seed, prompts
    and answers as recorded. spec-bench: Spec-Bench's own lengths, stretched to the paper's mean and
    P90. cnn-dm: log-normal with the paper's mean and P90. Answers of both are of `output_tokens`.

    Raises:
        WorkloadError: no such name.
    """
    if name in TRACES:
        window = trace_window(name, num_requests, seed)
        return [Lengths(max(1, row.prompt_tokens), max(1, row.output_tokens)) for row in window]
    if name not in LENGTHS:
        raise WorkloadError(f"expected one of {', '.join(LENGTHS)}, got {name}")
    source = random.Random(f"{name}/{seed}")
    if name == SPEC_BENCH:
        values, scale, offset = fit_spec_bench()
        drawn = [source.choice(values) * scale + offset for _ in range(num_requests)]
    else:
        mu, sigma = fit_lognormal(CNN_DM_MEAN_TOKENS, CNN_DM_P90_TOKENS)
        drawn = [source.lognormvariate(mu, sigma) for _ in range(num_requests)]
    return [Lengths(max(1, round(tokens)), output_tokens) for tokens in drawn]


def fit_spec_bench() -> tuple[list[float], float, float]:
    """Lengths in GPT-2 tokens, and how they are stretched and moved: values, scale, offset.

    A log-normal cannot have this P90 at this mean (2.54 times; 2.27 at most): most prompts are
    short, a third are articles. What stretching and moving stand for is another tokenizer and a
    chat template, and the fit says so: 1.21 times and 31 tokens.
    """
    values = [float(row.gpt2_tokens) for row in prompt_rows("spec_bench")]
    return values, *fit_affine(values, SPEC_BENCH_MEAN_TOKENS, SPEC_BENCH_P90_TOKENS)


def fit_lognormal(mean_value: float, p90: float) -> tuple[float, float]:
    """`mu` and `sigma` of the less spread of the log-normals that have this mean and P90.

    From mean = exp(mu + sigma^2 / 2) and P90 = exp(mu + z sigma), z = 1.2816:
    sigma = z - sqrt(z^2 - 2 ln(P90 / mean)).

    Raises:
        ValueError: no log-normal has them: P90 below the mean, or above exp(z^2 / 2) times it.
    """
    ratio = p90 / mean_value if mean_value > 0 else math.nan
    if not 1 <= ratio <= math.exp(_Z90**2 / 2):
        raise ValueError(f"no log-normal has mean {mean_value} and P90 {p90}")
    sigma = _Z90 - math.sqrt(_Z90**2 - 2 * math.log(ratio))
    return math.log(mean_value) - sigma**2 / 2, sigma


def fit_affine(values: Sequence[float], mean_value: float, p90: float) -> tuple[float, float]:
    """The scale and offset that give `values` this mean and P90.

    Raises:
        ValueError: `values` are all alike up to their P90.
    """
    own_mean, own_p90 = mean(values), _p90(values)
    if own_p90 == own_mean:
        raise ValueError("expected values whose P90 is not their mean")
    scale = (p90 - mean_value) / (own_p90 - own_mean)
    return scale, mean_value - scale * own_mean


def _p90(values: Sequence[float]) -> float:
    """The smallest value that nine tenths of all do not exceed."""
    return sorted(values)[math.ceil(0.9 * len(values)) - 1]
