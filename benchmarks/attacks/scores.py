"""How an attacker tells members from others by what a model says, and how well that goes.

Sources: loss threshold: Yeom et al., Privacy Risk in Machine Learning, CSF 2018; calibration by
shadow models: Carlini et al., Membership Inference Attacks From First Principles (LiRA), S&P 2022,
the offline attack with one variance for all images: its likelihood ratio orders images as the
difference to their mean under models that have not seen them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.novelty import auroc
from incremental.head import Weights
from incremental.inference import logits_of
from incremental.network import NetworkConfig, build_network
from physical.transforms import to_tensor

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Success:
    """How well members are told from others.

    Args:
        auroc: Chance that a member scores higher than another image; 0.5: a coin.
        at_1_percent: Share of the members found where 1 % of the others are accused wrongly.
        at_0_1_percent: The same at 0.1 %.
    """

    auroc: float
    at_1_percent: float
    at_0_1_percent: float


def confidence(
    network: NetworkConfig, weights: Weights, images: NDArray[np.uint8], rows: NDArray[np.int64]
) -> Scores:
    """Return ``log(p / (1 - p))`` of each image's class.

    P what the model gives it (Carlini et al., eq. 3); in the order of minus the loss.

    Args:
        network: What the weights belong to.
        weights: The model.
        images: 8-bit, shape [N, H, W, C].
        rows: Class of each as a row of the head.
    """
    logits = logits_of(build_network(network, weights), to_tensor(images)).double()
    own = torch.from_numpy(rows)[:, None]
    others = logits.scatter(1, own, -torch.inf).logsumexp(1)
    scores: Scores = (logits.gather(1, own)[:, 0] - others).numpy()
    return scores


def success(members: Scores, others: Scores) -> Success:
    """Return how well scores tell members from others."""
    together, is_member = (
        np.concatenate([members, others]),
        np.arange(len(members) + len(others)) < len(members),
    )
    return Success(
        auroc(together, is_member),
        found_at(members, others, 0.01),
        found_at(members, others, 0.001),
    )


def found_at(members: Scores, others: Scores, rate: float) -> float:
    """Return the share of members above the threshold of this false positive rate."""
    allowed = int(rate * len(others) + 1e-9)
    threshold = np.sort(others)[::-1][allowed]
    return float((members > threshold).mean())
