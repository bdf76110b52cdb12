"""Rotary parameters of a GGUF file, under the names that transformers has for them.

Llama 3's scaling is not among a file's settings. llama.cpp's converter works out by what each
frequency is divided and stores these factors as the tensor `rope_freqs.weight`. The parameters
are found again from them, since the rest of the world, this project's manifest and vLLM included,
knows such a model by its parameters.
"""

import math

import numpy as np
from numpy.typing import NDArray

from submodels.checkpoint.gguf.file import GgufFile, shortest
from submodels.errors import UnsupportedModelError

Parameters = dict[str, float | str | list[float]]

_FACTORS = "rope_freqs.weight"
_DEFAULT_THETA = 10_000.0
# Of all Llama 3 models; used where too few frequencies lie between to tell.
_LLAMA3_HIGH, _LLAMA3_CONTEXT = 4.0, 8192
# What llama.cpp's converter divides by where nothing turns is 1e30.
_STILL = 1e20
# The factors were computed in float32.
_TOLERANCE = 1e-4


def rope_parameters(file: GgufFile, with_log_multiplier: bool = False) -> Parameters:
    """What `rope_parameters` of a config.json would say.

    `with_log_multiplier`: the family's factor on attention may be given as one on a logarithm.

    Raises:
        UnsupportedModelError: a scaling that is not known, or one that no parameters give.
        CheckpointError: a setting that is no number.
    """
    scaling = _scaling(file, with_log_multiplier)
    return {"rope_theta": rope_theta(file), **scaling, **_turned_part(file)}


def long_rope_parameters(file: GgufFile, original: int) -> Parameters | None:
    """The same for LongRoPE, whose two sets of factors are tensors; None: there are none.

    `original`: the length within which the short ones hold.

    Raises:
        UnsupportedModelError: one set without the other.
        CheckpointError: a factor on attention that is no number.
    """
    short, long = (file.vector(f"rope_factors_{name}.weight") for name in ("short", "long"))
    if short is None and long is None:
        return None
    if short is None or long is None:
        raise UnsupportedModelError(f"{file.path}: LongRoPE needs rope_factors_short and _long")
    parameters: Parameters = {
        "rope_type": "longrope",
        "rope_theta": rope_theta(file),
        "short_factor": [shortest(each) for each in short.tolist()],
        "long_factor": [shortest(each) for each in long.tolist()],
        "original_max_position_embeddings": original,
        **_turned_part(file),
    }
    scale = file.integer("context_length") / max(original, 1)
    usual = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 < original else 1.0
    stored = file.number("rope.scaling.attn_factor", usual)
    if not math.isclose(stored, usual, rel_tol=_TOLERANCE):
        parameters["attention_factor"] = stored
    return parameters


def proportional_rope_parameters(file: GgufFile) -> Parameters:
    """The same for Gemma 4's layers that see all: by what divides a frequency it turns or does not.

    Raises:
        UnsupportedModelError: factors of another kind.
    """
    factors = file.vector(_FACTORS)
    pairs = file.head_dim // 2
    turned = pairs if factors is None else int(np.count_nonzero(factors == 1))
    if factors is not None and not (
        factors.shape == (pairs,)
        and np.all(factors[:turned] == 1)
        and np.all(factors[turned:] > _STILL)
    ):
        raise UnsupportedModelError(
            f"{file.path}: its rope_freqs are not those of Gemma 4, which turn or do not"
        )
    return {
        "rope_type": "proportional",
        "rope_theta": rope_theta(file),
        "partial_rotary_factor": _share(turned, pairs),
    }


def rotary_dim(file: GgufFile) -> int:
    """How many numbers of a head turn.

    Raises:
        CheckpointError: a setting is missing or no count.
    """
    return file.integer("rope.dimension_count", file.head_dim)


def rope_theta(file: GgufFile) -> float:
    """The base of all frequencies.

    Raises:
        CheckpointError: a setting that is no number.
    """
    return file.number("rope.freq_base", _DEFAULT_THETA)


def _turned_part(file: GgufFile) -> Parameters:
    """The share of a head that turns, as transformers multiplies it; nothing where all does."""
    size, turned = file.head_dim, rotary_dim(file)
    if turned == size:
        return {}
    return {"partial_rotary_factor": _share(turned, size)}


def _share(part: int, whole: int) -> float:
    """Of which the whole is multiplied and cut to a count by transformers."""
    share = part / max(whole, 1)
    return share if int(share * whole) == part else math.nextafter(share, 1)


def _scaling(file: GgufFile, with_log_multiplier: bool) -> Parameters:
    factors = file.vector(_FACTORS)
    kind = file.get("rope.scaling.type", "linear")
    # The second is an old name. 0 means that nothing is scaled.
    factor = file.number("rope.scaling.factor", file.number("rope.scale_linear", 1.0)) or 1.0
    is_scaled = kind != "none" and factor != 1.0
    if factors is not None and np.any(factors != 1):
        if is_scaled:
            raise UnsupportedModelError(
                f"{file.path}: rope_freqs beside {kind} scaling is not supported"
            )
        return _llama3(file, rope_theta(file), rotary_dim(file), factors)
    if not is_scaled:
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return {"factor": factor, **_yarn(file, factor, with_log_multiplier)}
    raise UnsupportedModelError(
        f"{file.path}: rope scaling {kind!r:.60} is not supported; supported: none, linear, yarn, "
        "and that of Llama 3"
    )


def _yarn(file: GgufFile, factor: float, with_log_multiplier: bool) -> Parameters:
    """The converter writes transformers' factor on attention under a name of its own, which
    llama.cpp does not look at. By the other name llama.cpp multiplies YaRN's own factor, but the
    converter wrote transformers' there for OLMo 3.
    """
    parameters: Parameters = {
        "rope_type": "yarn",
        "original_max_position_embeddings": file.integer(
            "rope.scaling.original_context_length", file.integer("context_length")
        ),
    }
    multiplier = file.number("rope.scaling.attn_factor", 1.0)
    if file.get("rope.scaling.yarn_attn_factor") is not None:
        parameters["attention_factor"] = file.number("rope.scaling.yarn_attn_factor")
    elif multiplier != 1.0:
        own = 1.0 if file.architecture == "olmo2" else 0.1 * math.log(factor) + 1.0
        parameters["attention_factor"] = multiplier * own
    for name in ("beta_fast", "beta_slow"):
        if file.get(f"rope.scaling.yarn_{name}") is not None:
            parameters[name] = file.number(f"rope.scaling.yarn_{name}")
    if with_log_multiplier and file.get("rope.scaling.yarn_log_multiplier") is not None:
        # That of all dimensions; the other one is 1 in llama.cpp.
        multiplier = file.number("rope.scaling.yarn_log_multiplier")
        parameters |= {"mscale": 1.0, "mscale_all_dim": multiplier}
    refusals = {"yarn_log_multiplier": 0.0, "yarn_ext_factor": 1.0}
    if with_log_multiplier:
        del refusals["yarn_log_multiplier"]
    for refused, default in refusals.items():
        if file.number(f"rope.scaling.{refused}", default) != default:
            raise UnsupportedModelError(f"{file.path}: {refused} of YaRN is not supported")
    return parameters


def _llama3(
    file: GgufFile, theta: float, head_dim: int, factors: NDArray[np.float32]
) -> Parameters:
    """The parameters that give these factors, with `low_freq_factor` 1.

    Between the two ends, a frequency keeps a share of itself that grows linearly with it. Slope
    and offset of that line give the other two parameters. Only ratios matter: twice both frequency
    factors and twice the context would give the same numbers.

    Source: `_compute_llama3_parameters` of transformers.
    """
    given = factors.astype(np.float64)
    if given.shape != (head_dim // 2,):
        raise UnsupportedModelError(
            f"{file.path}: expected {head_dim // 2} rope_freqs, got {given.shape}"
        )
    per_token = theta ** (-2 * np.arange(head_dim // 2) / head_dim) / (2 * math.pi)
    factor = shortest(float(given.max()))
    try:
        # Of impossible factors nothing finite comes out.
        with np.errstate(all="ignore"):
            high, context = _llama3_line(per_token, given, factor)
            expected = _llama3_factors(per_token, factor, high, context)
    except (ValueError, ArithmeticError):
        expected = np.full_like(given, np.nan)
    if not np.allclose(expected, given, rtol=_TOLERANCE, atol=0):
        raise UnsupportedModelError(
            f"{file.path}: its rope_freqs are not those of Llama 3's scaling, which alone is "
            "supported"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def _llama3_line(
    per_token: NDArray[np.float64], given: NDArray[np.float64], factor: float
) -> tuple[float, int]:
    """The upper frequency factor and the context that the line between both ends gives."""
    share = (1 / given - 1 / factor) / (1 - 1 / factor)
    between = (share > _TOLERANCE) & (share < 1 - _TOLERANCE)
    if np.count_nonzero(between) < 2:
        return _LLAMA3_HIGH, _LLAMA3_CONTEXT
    slope, offset = np.polyfit(per_token[between], share[between], 1)
    high = round(1 - 1 / float(offset), 3)
    return high, round(float(slope) * (high - 1))


def _llama3_factors(
    per_token: NDArray[np.float64], factor: float, high: float, context: int
) -> NDArray[np.float64]:
    """By what each frequency (turns per token) is divided."""
    share = np.clip((context * per_token - 1) / (high - 1), 0, 1)
    divided: NDArray[np.float64] = 1 / ((1 - share) / factor + share)
    return divided
