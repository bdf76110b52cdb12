"""A seeded orthogonal matrix R that spreads every channel of a hidden state over all of them.

Real models have a few channels tens of times larger than the others; a scale that covers them
leaves few steps for the rest. In the basis `x R` all channels are about equally large.

R is `diag(signs) (F1 x F2 x ...)`, a Kronecker product of small factors, so that a product with R
takes a sum of their sizes instead of the hidden size. The factors are Hadamard matrices for the
power of two in the hidden size, and a random orthogonal one for what is left.

Source: Ashkboos et al., 2024, SliceGPT (arXiv:2401.15024) and QuaRot (arXiv:2404.00456).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

# A factor's size: larger ones take more additions per number, smaller ones more passes.
_LARGEST_HADAMARD = 64


@dataclass(frozen=True, slots=True)
class Rotation:
    """An orthogonal matrix `[H, H]` in factors."""

    signs: Float64
    """`[H]`, each 1 or -1."""
    factors: tuple[Float64, ...]
    """Orthogonal matrices whose sizes multiply to H."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The factors' sizes."""
        return tuple(len(factor) for factor in self.factors)

    def turn(self, rows: NDArray[Any]) -> Float64:
        """Rows `[N, H]` times R, in float64."""
        turned = rows.astype(np.float64) * self.signs
        num_after = turned.shape[1]
        for factor in self.factors:
            num_after //= len(factor)
            turned = factor.T @ turned.reshape(-1, len(factor), num_after)
        return turned.reshape(rows.shape)


def seeded_rotation(hidden_size: int, seed: int) -> Rotation:
    """The rotation of this size and seed."""
    chance = np.random.default_rng(seed)
    signs = chance.choice(np.array([-1.0, 1.0]), hidden_size)
    power = hidden_size & -hidden_size
    factors: list[Float64] = []
    while power > 1:
        size = min(power, _LARGEST_HADAMARD)
        factors.append(_hadamard(size))
        power //= size
    odd = hidden_size // math.prod(len(factor) for factor in factors)
    if odd > 1 or not factors:
        factors.append(_random_orthogonal(odd, chance))
    return Rotation(signs, tuple(factors))


def _hadamard(size: int) -> Float64:
    """Sylvester's matrix of a power of two, scaled to be orthogonal."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / math.sqrt(size)


def _random_orthogonal(size: int, chance: np.random.Generator) -> Float64:
    """A uniformly random one: the signs of the triangle's diagonal are made positive."""
    matrix, triangle = np.linalg.qr(chance.standard_normal((size, size)))
    rotated: Float64 = matrix * np.sign(np.diag(triangle))
    return rotated
