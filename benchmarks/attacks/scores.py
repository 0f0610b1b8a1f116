"""Membership scores from a model's confidence, and how well they separate members from others.

Sources: loss threshold: Yeom et al., Privacy Risk in Machine Learning, CSF 2018. Calibration by
shadow models: Carlini et al., Membership Inference Attacks From First Principles (LiRA), S&P 2022,
offline attack with one variance for all images; its likelihood ratio orders images like the
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
    """How well members are separated from others.

    Args:
        auroc: Chance that a member scores higher than another image; 0.5 is chance level.
        at_1_percent: True-positive rate at a false-positive rate of 1 %.
        at_0_1_percent: True-positive rate at a false-positive rate of 0.1 %.
    """

    auroc: float
    at_1_percent: float
    at_0_1_percent: float


def confidence(
    network: NetworkConfig, weights: Weights, images: NDArray[np.uint8], rows: NDArray[np.int64]
) -> Scores:
    """Return ``log(p / (1 - p))`` of each image's class probability p (Carlini et al., eq. 3).

    The order is that of the negative loss.

    Args:
        network: Configuration of the network.
        weights: Weights of the model.
        images: 8-bit, shape [N, H, W, C].
        rows: Class of each image as a row of the head, shape [N].
    """
    logits = logits_of(build_network(network, weights), to_tensor(images)).double()
    own = torch.from_numpy(rows)[:, None]
    others = logits.scatter(1, own, -torch.inf).logsumexp(1)
    scores: Scores = (logits.gather(1, own)[:, 0] - others).numpy()
    return scores


def success(members: Scores, others: Scores) -> Success:
    """Return how well scores separate members from others."""
    together = np.concatenate([members, others])
    is_member = np.arange(len(members) + len(others)) < len(members)
    return Success(
        auroc(together, is_member),
        found_at(members, others, 0.01),
        found_at(members, others, 0.001),
    )


def found_at(members: Scores, others: Scores, rate: float) -> float:
    """Return the share of members above the threshold that this share of the others passes."""
    allowed = int(rate * len(others) + 1e-9)
    threshold = np.sort(others)[::-1][allowed]
    return float((members > threshold).mean())
