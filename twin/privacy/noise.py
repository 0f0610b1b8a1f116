"""Random sources of differential privacy: a seeded generator, or the operating system.

A guarantee holds against those who cannot repeat the draws. In simulations draws are seeded, so
that runs repeat bit for bit; whoever knows the seed, as the server does, can remove the noise. In
real hospitals draws come from the operating system. It is not enough to seed torch's generator from
there: it uses 32 bits of its seed, few enough to try them all.
"""

import os
from collections.abc import Sequence
from math import pi, prod
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

NoiseSource = Literal["seeded", "system"]


@runtime_checkable
class RandomSource(Protocol):
    """A source of independent draws in float64."""

    def uniform(self, count: int) -> Tensor:
        """Return draws from [0, 1)."""
        ...

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return draws with mean 0 and standard deviation 1."""
        ...


class SeededSource:
    """Draws of a generator, repeatable with its seed.

    Args:
        generator: Source of the draws.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, count: int) -> Tensor:
        """Return draws from [0, 1)."""
        return torch.rand(count, generator=self._generator, dtype=torch.float64)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return draws with mean 0 and standard deviation 1."""
        return torch.randn(tuple(shape), generator=self._generator, dtype=torch.float64)


class SystemSource:
    """Draws of the operating system's cryptographic source, which cannot be repeated."""

    def uniform(self, count: int) -> Tensor:
        """Return draws from [0, 1), multiples of 2^-53."""
        bits = np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(11)
        return torch.from_numpy(bits.astype(np.float64) * 2.0**-53)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return draws with mean 0 and standard deviation 1.

        Box and Muller, Annals of Mathematical Statistics 1958.
        """
        count = prod(shape)
        half = (count + 1) // 2
        radius = (-2 * torch.log1p(-self.uniform(half))).sqrt()  # of 1 - u, which is never 0
        angle = 2 * pi * self.uniform(half)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count].view(tuple(shape))


def random_source(source: NoiseSource, generator: torch.Generator) -> RandomSource:
    """Return the source of a configuration; only ``seeded`` uses the generator."""
    return SeededSource(generator) if source == "seeded" else SystemSource()
