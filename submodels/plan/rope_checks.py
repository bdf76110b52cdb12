"""Whether rotary numbers fit their parameters; needs no transformers."""

from collections.abc import Mapping

from submodels.manifest import Rope

# Far above what another order of float32 operations does to a frequency.
_TOLERANCE = 1e-4


def check_rope(rope: Rope, parameters: Mapping[str, float | str], head_dim: int) -> None:
    """Frequencies between the unscaled ones and those divided by the factor.

    Plain and linear scaling are at one end for every dimension; llama3 and yarn go from one end to
    the other. The fingerprint covers the parameters, this the numbers that were made of them.

    Raises:
        ValueError: a frequency, or the factor on cos and sin, that the parameters cannot give.
    """
    kind = parameters.get("rope_type")
    theta, factor = parameters.get("rope_theta"), parameters.get("factor", 1.0)
    if not isinstance(theta, float) or not isinstance(factor, float) or not theta * factor > 0:
        raise ValueError(f"rope_parameters: expected a rope_theta and factor, got {parameters}")
    for index, came in enumerate(rope.inv_freq):
        plain = theta ** (-2 * index / head_dim)
        ends = (plain / factor, plain)
        if kind in ("default", "linear"):
            ends = (ends[0], ends[0])
        if not min(ends) * (1 - _TOLERANCE) <= came <= max(ends) * (1 + _TOLERANCE):
            raise ValueError(f"rope: frequency {index} is {came}, expected {ends[0]} to {ends[1]}")
    if kind != "yarn" and rope.attention_scaling != 1.0:
        raise ValueError(f"rope: expected no attention_scaling, got {rope.attention_scaling}")
