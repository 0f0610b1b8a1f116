"""Differential privacy of a whole update: clipping, Gaussian noise, and spent epsilon.

Noise is added here, inside the hospital, to each update by itself: the guarantee holds against the
server and whoever reads what it is sent (local differential privacy). It is that of the Gaussian
mechanism, counted in Renyi divergences (RDP), which add up over rounds.
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
from twin.privacy.noise import NoiseSource, randomness

# Orders of the divergence among which the best is taken: those of Opacus, and larger ones for
# strong noise.
ORDERS = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(12, 64)),
    80.0,
    128.0,
    256.0,
    512.0,
)


class PrivacyError(ValueError):
    """A guarantee that cannot be given, or a budget that would be overspent.

    What, got, allowed, what to do.
    """


@dataclass(frozen=True)
class PrivacySpent:
    """Equal uses of the Gaussian mechanism.

    Args:
        noise_multiplier: Standard deviation of the noise over the sensitivity, the most by which
            the protected change can move the result.
        sample_rate: Chance with which an image takes part in a step; 1: nothing is drawn.
        steps: How often.
        seeded: The noise can be drawn again: doing the same round again releases the same numbers
            and costs nothing.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    seeded: bool


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class UpdateNoise:
    """Noise on a twin's whole update.

    Its change is clipped to a norm, then every coordinate gets noise.

    Source: McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018,
    algorithm 1 (DP-FedAvg, flat clipping). There the server adds the noise to the sum; here each
    twin adds it to its own update, as it does not trust the server. Two data sets of one hospital,
    however different, give clipped changes at most ``2 clip_norm`` apart, and that is the
    sensitivity that is counted: nobody who sees the updates can tell which data set the hospital
    has, to within epsilon. No amplification is claimed for the draw of twins, as the server knows
    who took part.

    Args:
        clip_norm: Largest norm of the change of all parameters together.
        noise_multiplier: Standard deviation of the noise on each coordinate over ``clip_norm``.
        delta: Of (epsilon, delta).
        epsilon_budget: A twin whose next update would exceed it trains no more; none: it is counted
            and not limited.
        noise_source: ``seeded``: for simulations; no guarantee against who knows the seed, as the
            server does. ``system``: the operating system; the run cannot be repeated.
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
        """Return what one update costs."""
        return PrivacySpent(self.noise_multiplier / 2, 1.0, 1, self.noise_source == "seeded")


def check_mechanism(noise_multiplier: float, delta: float, epsilon_budget: float | None) -> None:
    """Check what all mechanisms have in common.

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

    A change that is not finite counts as none: what an update can move is bounded whatever the
    images.

    Args:
        weights: After training.
        reference: Before: the weights of the broadcast.
        config: Norm, noise and where noise comes from.
        generator: Used with ``noise_source: seeded``.

    Raises:
        PrivacyError: If there are statistics or counters that would leave without noise.
    """
    bare = [
        name
        for name, value in weights.items()
        if "running_" in name or not value.is_floating_point()
    ]
    if bare:
        raise PrivacyError(
            f"{bare[0]} follows the images and would leave without noise, as would {len(bare) - 1} "
            "more; use a network without batch "
            "normalisation: network.norm: group"
        )
    change = {name: value.double() - reference[name].double() for name, value in weights.items()}
    norm = float(torch.stack([value.square().sum() for value in change.values()]).sum().sqrt())
    scale = min(1.0, config.clip_norm / norm) if norm > 0 else 1.0
    draws = randomness(config.noise_source, generator)

    def released(name: str, value: Tensor) -> Tensor:
        kept = value * scale if isfinite(norm) else torch.zeros_like(value)
        noisy = kept + config.noise_multiplier * config.clip_norm * draws.normal(value.shape)
        return (reference[name].double() + noisy).to(reference[name].dtype)

    return {name: released(name, value) for name, value in change.items()}


def spend(privacy: Sequence[PrivacySpent], cost: PrivacySpent) -> tuple[PrivacySpent, ...]:
    """Return the account with one more cost; equal uses are counted together."""
    together = {replace(each, steps=0): each.steps for each in privacy}
    key = replace(cost, steps=0)
    together[key] = together.get(key, 0) + cost.steps
    return tuple(replace(each, steps=steps) for each, steps in together.items())


def epsilon_of(privacy: Sequence[PrivacySpent], delta: float) -> float:
    """Return the epsilon of all that was spent, at a delta.

    Divergences of one order add up (Mironov, Renyi Differential Privacy, CSF 2017, proposition 1);
    they become epsilon by Balle et al., Hypothesis Testing Interpretations and Renyi Differential
    Privacy, AISTATS 2020, theorem 21, at the order that gives the least.

    Args:
        privacy: The account.
        delta: Above 0.
    """
    if not any(each.steps for each in privacy):
        return 0.0
    orders = np.array(ORDERS)
    divergence = sum(
        each.steps * _divergence(each.noise_multiplier, each.sample_rate) for each in privacy
    )
    return max(
        0.0,
        float(
            (
                divergence - (log(delta) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
            ).min()
        ),
    )


def after_going_back(
    earlier: Sequence[PrivacySpent], newest: Sequence[PrivacySpent]
) -> tuple[PrivacySpent, ...]:
    """Return the account of a twin whose state is put back to an earlier one.

    What left with noise of the system has left for good.

    Seeded noise is drawn again when the round is repeated: the same numbers leave once more, and
    say nothing new.

    Args:
        earlier: Of the state that is put back.
        newest: Of the newest state there was.
    """
    return (
        *(each for each in earlier if each.seeded),
        *(each for each in newest if not each.seeded),
    )


@lru_cache(maxsize=4096)
def _divergence(noise_multiplier: float, sample_rate: float) -> NDArray[np.float64]:
    """Return the divergence of one step at each order; nobody may change what is returned.

    Without drawing it is ``order / (2 noise_multiplier^2)`` (Mironov 2017, proposition 7). With
    Poisson sampling it is that of Mironov, Talwar and Zhang, Renyi Differential Privacy of the
    Sampled Gaussian Mechanism, 2019, as Opacus computes it.
    """
    if sample_rate == 1:
        return np.array(ORDERS) / (2 * noise_multiplier**2)
    require_opacus()
    # An extra, and seconds to import.
    from opacus.accountants.analysis.rdp import compute_rdp  # noqa: PLC0415

    return np.array(
        compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS))
    )


def require_opacus() -> None:
    """Check that Opacus can be loaded.

    Raises:
        PrivacyError: If it is not installed.
    """
    if find_spec("opacus") is None:
        raise PrivacyError(
            "training.private needs the package opacus, which is not installed here; install the "
            "extra: pip install 'fedka[privacy]'"
        )
