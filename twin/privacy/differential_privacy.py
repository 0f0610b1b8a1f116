"""Differential privacy of a whole update: clipping, Gaussian noise, and spent epsilon.

Noise is added inside the hospital to each update by itself, so the guarantee holds against the
server too (local differential privacy). It is that of the Gaussian mechanism, counted in Renyi
divergences (RDP), which add up over rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from math import isfinite, log

import numpy as np
import pydantic.dataclasses
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from torch import Tensor

from incremental.head import Weights
from incremental.weight_tensors import parameters_of
from twin.privacy.noise import NoiseSource, random_source

# Orders of the divergence of which the best is used: those of Opacus, larger ones for strong noise.
ORDERS = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *map(float, range(12, 64)),
    *(80.0, 128.0, 256.0, 512.0),
)


class PrivacyError(ValueError):
    """A guarantee that cannot be given, or a budget that would be overspent."""


@dataclass(frozen=True)
class PrivacySpent:
    """Privacy spent by a number of equal steps of the Gaussian mechanism.

    Args:
        noise_multiplier: Standard deviation of the noise over the sensitivity (the largest change
            that the protected data can make).
        sample_rate: Probability that an image is in a step; 1: no sampling.
        steps: Number of steps.
        seeded: Whether noise is repeatable: then a repeated round releases the same numbers again
            and costs nothing.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    seeded: bool


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class UpdateNoise:
    """Noise on a twin's whole update, after its change is clipped to a norm.

    Source: McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018,
    algorithm 1 (DP-FedAvg, flat clipping). There the server adds noise to the sum; here each twin
    adds it to its own update, as it does not trust the server. What is protected is a hospital's
    whole data set: any two give clipped changes at most ``2 clip_norm`` apart, which is the
    sensitivity. The sampling of twins does not reduce epsilon, as the server knows who took part.

    Args:
        clip_norm: Largest norm of the change of all parameters together.
        noise_multiplier: Standard deviation of the noise on each coordinate over ``clip_norm``.
        delta: Delta of the guarantee (epsilon, delta).
        epsilon_budget: A twin whose next update would exceed it stops training; none: no limit.
        noise_source: ``seeded``: repeatable, for simulations; no guarantee against those who know
            the seed, as the server does. ``system``: the operating system; not repeatable.
    """

    clip_norm: float
    noise_multiplier: float
    delta: float = 1e-5
    epsilon_budget: float | None = None
    noise_source: NoiseSource = "seeded"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (self.clip_norm > 0 and isfinite(self.clip_norm)):
            raise ValueError(f"clip_norm is {self.clip_norm}; allowed: above 0 and finite")
        check_mechanism(self.noise_multiplier, self.delta, self.epsilon_budget)

    def cost(self) -> PrivacySpent:
        """Return the privacy that one update spends."""
        return PrivacySpent(self.noise_multiplier / 2, 1.0, 1, self.noise_source == "seeded")


def check_mechanism(noise_multiplier: float, delta: float, epsilon_budget: float | None) -> None:
    """Check the values that all mechanisms have.

    Raises:
        ValueError: If a number is out of range.
    """
    if not (noise_multiplier > 0 and isfinite(noise_multiplier)):
        raise ValueError(
            f"noise_multiplier is {noise_multiplier}; allowed: above 0 and finite; without noise "
            "there is no privacy"
        )
    if not 0 < delta < 1:
        raise ValueError(
            f"delta is {delta}; allowed: above 0 and below 1; choose it well below 1 / images of a "
            "hospital, e.g. 1e-5"
        )
    if epsilon_budget is not None and not epsilon_budget > 0:
        raise ValueError(
            f"epsilon_budget is {epsilon_budget}; allowed: above 0, or none for no limit"
        )


def clip_and_noise(
    weights: Weights, reference: Weights, config: UpdateNoise, generator: torch.Generator
) -> Weights:
    """Return weights whose change from the reference is clipped and noisy.

    A change that is not finite is replaced by zeros, so that the clip norm bounds every update.

    Args:
        weights: Weights after training.
        reference: Weights of the broadcast.
        config: Clip norm, noise and its source.
        generator: Used with ``noise_source: seeded``.

    Raises:
        PrivacyError: If there are statistics or counters that would leave without noise.
    """
    noisy_names = parameters_of(weights)
    unprotected = [name for name in weights if name not in noisy_names]
    if unprotected:
        raise PrivacyError(
            f"{unprotected[0]} depends on the images and would leave without noise, as would "
            f"{len(unprotected) - 1} more; use a network without batch normalisation: "
            "network.norm: group"
        )
    change = {name: value.double() - reference[name].double() for name, value in weights.items()}
    norm = float(torch.stack([value.square().sum() for value in change.values()]).sum().sqrt())
    scale = min(1.0, config.clip_norm / norm) if norm > 0 else 1.0
    draws = random_source(config.noise_source, generator)

    def released(name: str, value: Tensor) -> Tensor:
        clipped = value * scale if isfinite(norm) else torch.zeros_like(value)
        noisy = clipped + config.noise_multiplier * config.clip_norm * draws.normal(value.shape)
        return (reference[name].double() + noisy).to(reference[name].dtype)

    return {name: released(name, value) for name, value in change.items()}


def add_cost(privacy: Sequence[PrivacySpent], cost: PrivacySpent) -> tuple[PrivacySpent, ...]:
    """Return the account with one more cost; equal steps are added up."""
    steps_of = {replace(each, steps=0): each.steps for each in privacy}
    key = replace(cost, steps=0)
    steps_of[key] = steps_of.get(key, 0) + cost.steps
    return tuple(replace(each, steps=steps) for each, steps in steps_of.items())


def epsilon_of(privacy: Sequence[PrivacySpent], delta: float) -> float:
    """Return the epsilon of an account at a delta above 0.

    Divergences of one order add up (Mironov, Renyi Differential Privacy, CSF 2017, proposition 1).
    They become epsilon by Balle et al., Hypothesis Testing Interpretations and Renyi Differential
    Privacy, AISTATS 2020, theorem 21, at the order with the smallest result.
    """
    if not any(each.steps for each in privacy):
        return 0.0
    orders = np.array(ORDERS)
    divergence = sum(
        each.steps * _divergence(each.noise_multiplier, each.sample_rate) for each in privacy
    )
    epsilons = divergence - (log(delta) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
    return max(0.0, float(epsilons.min()))


def account_after_restore(
    earlier: Sequence[PrivacySpent], newest: Sequence[PrivacySpent]
) -> tuple[PrivacySpent, ...]:
    """Return the account of a twin whose state is restored to an earlier one.

    Noise of the system was released for good. Seeded noise will be the same when the round is
    repeated, and reveals nothing more.

    Args:
        earlier: Account of the restored state.
        newest: Account of the newest state.
    """
    return (
        *(each for each in earlier if each.seeded),
        *(each for each in newest if not each.seeded),
    )


@lru_cache(maxsize=4096)
def _divergence(noise_multiplier: float, sample_rate: float) -> NDArray[np.float64]:
    """Return the divergence of one step at each order; the array is cached and must not change.

    Without drawing it is ``order / (2 noise_multiplier^2)`` (Mironov 2017, proposition 7). With
    Poisson sampling it is that of Mironov, Talwar and Zhang, Renyi Differential Privacy of the
    Sampled Gaussian Mechanism, 2019, as Opacus computes it.
    """
    if sample_rate == 1:
        return np.array(ORDERS) / (2 * noise_multiplier**2)
    require_opacus()
    # An optional package that takes seconds to import.
    from opacus.accountants.analysis.rdp import compute_rdp  # noqa: PLC0415

    return np.array(
        compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS))
    )


def require_opacus() -> None:
    """Check that Opacus is installed.

    Raises:
        PrivacyError: If it is not.
    """
    if find_spec("opacus") is None:
        raise PrivacyError(
            "training.private needs the package opacus, which is not installed here; install the "
            "extra: pip install 'fedka[privacy]'"
        )
