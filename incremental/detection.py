"""Detection of new classes: rules that read prediction entropies and decide.

Entropy is in nats inside this file; every threshold of a configuration is a fraction of the largest
entropy there is, ln C for C classes, because a threshold in nats that is right for 10 classes can
never be reached with 3 (ln 3 = 1.099).

Sources: the jump rule is that of LGA (Dong et al. 2023) and FedKA (section 3.2: 1.2 nats for
CIFAR-100, 0.4 nats for the organs). The calibrated rule is ours: the two-sample test of Kolmogorov
and Smirnov against the twin's own history. It looks at whole distributions, because a network can
be sure and wrong about a class that it never saw: then entropies fall, and a rule for rising means
sees nothing.
"""

from dataclasses import dataclass
from math import log, sqrt
from typing import Literal

import numpy as np
import pydantic.dataclasses
from numpy.typing import NDArray
from pydantic import ConfigDict

# Mean entropy under a model that knows no class [nats]: above every ln C, so no later mean can jump
# over it.
EVERYTHING_IS_NEW = 1e3
# Images held back below which a twin compares with the federation's usual entropies instead of its
# own.
FEWEST_OWN = 5
USUAL_LEVELS = np.linspace(
    0.05, 0.95, 19
)  # quantiles by which a twin's usual entropies are told to others


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DetectionConfig:
    """Which rule decides, and when it fires.

    Args:
        rule: ``entropy_jump`` (paper): mean entropy rose by more than ``jump_fraction`` since the
            last look. ``calibrated``: entropies of arrivals are distributed otherwise than those of
            images of known classes that the twin held back, under the same model. ``by_name``:
            people have looked already; whatever arrives counts, so a name that the model does not
            know is new.
        jump_fraction: Threshold of the jump as a fraction of ln C. Paper: 1.2 nats = 0.521 ln 10;
            0.4 nats = 0.364 ln 3.
        reference_classes: C of that fraction; none: the classes that the model knows at that
            moment. The paper's thresholds are constant in nats: reference 10 for CIFAR-100 (T =
            10), 3 for the organs.
        shift_margin: Smallest distance of the two distributions that counts, in (0, 1): the largest
            difference of their shares below any entropy.
        false_alarm_chance: Chance of an alarm among images of known classes, by which few images
            need a larger distance than many.
        sample: Most images that one decision looks at, evenly taken; none: all.
    """

    rule: Literal["entropy_jump", "calibrated", "by_name"] = "entropy_jump"
    jump_fraction: float = 0.521
    reference_classes: int | None = None
    shift_margin: float = 0.2
    false_alarm_chance: float = 0.001
    sample: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges; a threshold that can never be reached is an error.

        Not a quiet detector.
        """
        if not 0 < self.jump_fraction < 1:
            raise ValueError(
                f"jump_fraction is {self.jump_fraction}; allowed: above 0 and below 1, as entropy "
                "never exceeds ln C; the paper's "
                "thresholds are 0.521 (1.2 nats of ln 10) and 0.364 (0.4 nats of ln 3)"
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
        """Raise where the rule cannot fire while the model knows this many classes.

        Raises:
            ValueError: With the threshold and the largest entropy, both in nats.
        """
        reachable = log(fewest_classes) if fewest_classes > 0 else 0.0
        if self.rule == "entropy_jump" and self.jump_nats(fewest_classes) >= reachable:
            raise ValueError(
                f"jump_fraction {self.jump_fraction} of ln "
                f"{self.reference_classes or fewest_classes} is "
                f"{self.jump_nats(fewest_classes):.3f} nats; with {fewest_classes} classes the "
                "entropy cannot exceed "
                f"ln {fewest_classes} = {reachable:.3f}, so the rule can never fire; lower "
                "jump_fraction or reference_classes"
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
    """What a rule may see of one twin at one moment, all under the same model.

    Args:
        classes: Classes that the model knows.
        arrivals: Entropies of images that no training has used yet [nats], shape [N].
        current: Entropies of the images being learned [nats], shape [M].
        held_back: Entropies of images of known classes that are never trained on [nats], shape [K].
        previous_mean: Mean entropy at the last look [nats]; none at the first one.
        usual_elsewhere: Quantiles (``USUAL_LEVELS``) of held-back entropies over the federation,
            for a twin without a history [nats].
        images_elsewhere: Images behind these quantiles.
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
    """What a rule decided, and on what grounds.

    Args:
        signal: New classes seem to have arrived.
        mean_nats: Mean entropy that was looked at [nats]; none where there was nothing to look at.
        statistic: What was compared with the threshold: rise in nats, or distance in [0, 1].
        threshold: What it was compared with.
    """

    signal: bool
    mean_nats: float | None
    statistic: float | None
    threshold: float


def entropy(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Shannon entropy of the softmax of logits [nats].

    Args:
        logits: Shape [N, C]; C = 0 (a model that knows nothing) gives EVERYTHING_IS_NEW.

    Returns:
        Shape [N], from 0 to ln C.
    """
    if logits.shape[1] == 0:
        return np.full(len(logits), EVERYTHING_IS_NEW, np.float32)
    shifted = logits - logits.max(1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(1, keepdims=True))
    log_probabilities = shifted - log_total
    return np.asarray(-(np.exp(log_probabilities) * log_probabilities).sum(1), np.float32)


def detect(evidence: Evidence, config: DetectionConfig) -> Detection:
    """Decide whether what arrived looks new.

    A model without classes makes everything new. Without anything to look at there is no signal.
    """
    looked_at = evidence.arrivals if len(evidence.arrivals) else evidence.current
    mean = float(looked_at.mean()) if len(looked_at) else None
    if evidence.classes == 0 or config.rule == "by_name":
        return Detection(len(evidence.arrivals) > 0, mean, None, 0.0)
    if config.rule == "entropy_jump":
        threshold = config.jump_nats(evidence.classes)
        rise = (
            None if mean is None else mean - (evidence.previous_mean or 0.0)
        )  # a fresh twin rises from 0 (LGA)
        return Detection(rise is not None and rise > threshold, mean, rise, threshold)
    usual, others = evidence.held_back, len(evidence.held_back)
    if others < FEWEST_OWN and evidence.usual_elsewhere is not None:
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
    """Return the distance that two samples of one distribution exceed with this chance.

    ``sqrt(-ln(chance / 2) (n + m) / (2 n m))``.
    """
    return sqrt(-log(chance / 2) * (count + others) / (2 * count * others))
