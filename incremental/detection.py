"""Detection of new classes: rules that read prediction entropies and decide.

Entropies are in nats. Thresholds of configurations are fractions of the largest entropy, ln C for C
classes, because a threshold in nats that is right for 10 classes may be out of reach with 3 (ln 3 =
1.099).

Sources: the jump rule is that of LGA (Dong et al. 2023) and FedKA (section 3.2: 1.2 nats for
CIFAR-100, 0.4 nats for the organs). The calibrated rule is our own: a two-sample
Kolmogorov-Smirnov test against images of known classes. It compares whole distributions, because a
network can be sure and wrong about new classes: then entropies fall, and a rule for rising means
does not fire.
"""

from dataclasses import dataclass
from math import log, sqrt
from typing import Literal

import numpy as np
import pydantic.dataclasses
from numpy.typing import NDArray
from pydantic import ConfigDict

# Entropy under a model without classes [nats]: above every ln C, so that no jump can follow.
ENTROPY_WITHOUT_CLASSES = 1e3
# With fewer images held back, a twin compares with the federation's entropies instead of its own.
MIN_OWN_IMAGES = 5
# Quantiles of known images' entropies that twins share.
QUANTILE_LEVELS = np.linspace(0.05, 0.95, 19)


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DetectionConfig:
    """Detection rule and its thresholds.

    Args:
        rule: ``entropy_jump`` (paper): fires if the mean entropy rose by more than
            ``jump_fraction`` since the last observation. ``calibrated``: fires if the entropies of
            arrivals are distributed differently from those of held-back images of known classes,
            under the same model. ``by_name``: fires whenever images arrive, so that a class name
            that the model does not know is new; for images that people have checked.
        jump_fraction: Threshold of the jump as a fraction of ln C. Paper: 1.2 nats = 0.521 ln 10;
            0.4 nats = 0.364 ln 3.
        reference_classes: C of that fraction; none: the model's classes at that moment. The paper's
            thresholds are constant in nats: reference 10 for CIFAR-100 (T = 10), 3 for the organs.
        shift_margin: Smallest Kolmogorov-Smirnov distance that fires, in (0, 1).
        false_alarm_chance: Probability that images of known classes fire; sets how much larger the
            distance must be with few images.
        sample: Most images of one decision, evenly taken; none: all.
    """

    rule: Literal["entropy_jump", "calibrated", "by_name"] = "entropy_jump"
    jump_fraction: float = 0.521
    reference_classes: int | None = None
    shift_margin: float = 0.2
    false_alarm_chance: float = 0.001
    sample: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges; a threshold that can never be reached is an error."""
        if not 0 < self.jump_fraction < 1:
            raise ValueError(
                f"jump_fraction is {self.jump_fraction}; allowed: above 0 and below 1, as entropy "
                "never exceeds ln C; the paper's thresholds are 0.521 (1.2 nats of ln 10) and "
                "0.364 (0.4 nats of ln 3)"
            )
        if not 0 < self.shift_margin < 1:
            raise ValueError(
                f"shift_margin is {self.shift_margin}; allowed: above 0 and below 1, as no "
                "distance exceeds 1"
            )
        if not 0 < self.false_alarm_chance < 0.5:
            raise ValueError(
                f"false_alarm_chance is {self.false_alarm_chance}; allowed: above 0 and below 0.5"
            )
        if self.reference_classes is not None and self.reference_classes < 2:
            raise ValueError(
                f"reference_classes is {self.reference_classes}; allowed: 2 or more (ln 1 = 0)"
            )
        if self.sample is not None and self.sample < 8:
            raise ValueError(f"sample is {self.sample}; allowed: 8 or more images")

    def check_reachable(self, fewest_classes: int) -> None:
        """Check that the rule can fire while the model knows this many classes.

        Raises:
            ValueError: If not.
        """
        reachable = log(fewest_classes) if fewest_classes > 0 else 0.0
        if self.rule == "entropy_jump" and self.jump_nats(fewest_classes) >= reachable:
            raise ValueError(
                f"jump_fraction {self.jump_fraction} of ln "
                f"{self.reference_classes or fewest_classes} is "
                f"{self.jump_nats(fewest_classes):.3f} nats; with {fewest_classes} classes the "
                f"entropy cannot exceed ln {fewest_classes} = {reachable:.3f}, so the rule can "
                "never fire; lower jump_fraction or reference_classes"
            )
        if self.rule == "calibrated" and fewest_classes < 2:
            raise ValueError(
                f"a model of {fewest_classes} class has no entropy, so no rule can fire; allowed: "
                "first task of 2 classes or more"
            )

    def jump_nats(self, classes: int) -> float:
        """Return the jump rule's threshold for a model of this many classes [nats]."""
        return self.jump_fraction * log(max(self.reference_classes or classes, 2))


@dataclass(frozen=True)
class Evidence:
    """Entropies of one twin's images under one model, the input of a rule.

    Args:
        classes: Number of the model's classes.
        arrivals: Entropies of images that were not trained on yet [nats], shape [N].
        current: Entropies of the current task's images [nats], shape [M].
        held_back: Entropies of images of known classes that are never trained on [nats], shape [K].
        previous_mean: Mean entropy at the last observation [nats]; none at the first.
        usual_elsewhere: Quantiles (``QUANTILE_LEVELS``) of held-back entropies over the federation
            [nats].
        images_elsewhere: Number of images behind these quantiles.
    """

    classes: int
    arrivals: NDArray[np.float32]
    current: NDArray[np.float32]
    held_back: NDArray[np.float32]
    previous_mean: float | None = None
    usual_elsewhere: NDArray[np.float32] | None = None
    images_elsewhere: int = 0


@dataclass(frozen=True)
class Detection:
    """Decision of a rule, with its values.

    Args:
        signal: Whether new classes seem to have arrived.
        mean_nats: Mean entropy of the images [nats]; none without images.
        statistic: Value that was compared: rise in nats, or distance in [0, 1].
        threshold: Threshold of the value.
    """

    signal: bool
    mean_nats: float | None
    statistic: float | None
    threshold: float


def entropy(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Shannon entropy of the softmax of logits [nats].

    Args:
        logits: Shape [N, C]; C = 0 gives ENTROPY_WITHOUT_CLASSES.

    Returns:
        Shape [N], from 0 to ln C.
    """
    if logits.shape[1] == 0:
        return np.full(len(logits), ENTROPY_WITHOUT_CLASSES, np.float32)
    shifted = logits - logits.max(1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(1, keepdims=True))
    log_probabilities = shifted - log_total
    return np.asarray(-(np.exp(log_probabilities) * log_probabilities).sum(1), np.float32)


def detect(evidence: Evidence, config: DetectionConfig) -> Detection:
    """Decide whether arrivals are of new classes.

    Under a model without classes all are. Without images there is no signal.
    """
    entropies = evidence.arrivals if len(evidence.arrivals) else evidence.current
    mean = float(entropies.mean()) if len(entropies) else None
    if evidence.classes == 0 or config.rule == "by_name":
        return Detection(len(evidence.arrivals) > 0, mean, None, 0.0)
    if config.rule == "entropy_jump":
        threshold = config.jump_nats(evidence.classes)
        # The first mean counts as a rise from 0, as in LGA.
        rise = None if mean is None else mean - (evidence.previous_mean or 0.0)
        return Detection(rise is not None and rise > threshold, mean, rise, threshold)
    usual, others = evidence.held_back, len(evidence.held_back)
    if others < MIN_OWN_IMAGES and evidence.usual_elsewhere is not None:
        usual, others = evidence.usual_elsewhere, evidence.images_elsewhere
    if not len(evidence.arrivals) or not others:
        return Detection(False, mean, None, config.shift_margin)
    distance = distribution_distance(evidence.arrivals, usual)
    threshold = max(
        config.shift_margin,
        chance_distance(len(evidence.arrivals), others, config.false_alarm_chance),
    )
    return Detection(distance > threshold, mean, distance, threshold)


def distribution_distance(values: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples, in [0, 1]."""
    at = np.concatenate([values, others])
    below = np.searchsorted(np.sort(values), at, "right") / len(values)
    below_others = np.searchsorted(np.sort(others), at, "right") / len(others)
    return float(np.abs(below - below_others).max())


def chance_distance(count: int, others: int, chance: float) -> float:
    """Return the distance that two samples of one distribution exceed with this probability.

    It is ``sqrt(-ln(chance / 2) (n + m) / (2 n m))`` for samples of n and m values.
    """
    return sqrt(-log(chance / 2) * (count + others) / (2 * count * others))
