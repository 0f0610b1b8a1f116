"""Plausibility checks of the observations that hospitals send.

Nothing here can tell a lie that could be true; it keeps out what would stop a round, or move the
others' detection without a bound.
"""

from math import isfinite, log

from incremental.detection import QUANTILE_LEVELS
from twin.messages import Observation

MOST_NEW_CLASSES = 100  # that one hospital announces in one look
_MOST_IMAGES = 100_000_000
_MOST_WATCHED = 16
_LONGEST_NAME = 100
_ROUNDING = 1e-3  # nats


def objection_to_observation(said: Observation, num_classes: int) -> str | None:
    """Say why this observation cannot be, in words.

    Args:
        said: Names its twin and its round rightly.
        num_classes: Of the model that was looked with.
    """
    counts = said.num_new_images, said.num_trainable, said.num_held_back, said.num_correct
    numbers = [each for each in (said.entropy, said.statistic, said.threshold) if each is not None]
    if (
        not all(0 <= each <= _MOST_IMAGES for each in counts)
        or said.num_correct > said.num_held_back
    ):
        return (
            f"counts images as {counts} (new, to train on, held back, of these right), which "
            "cannot be"
        )
    if not all(map(isfinite, numbers)) or not 0 <= (said.entropy or 0.0) <= 1:
        return (
            f"reports entropy {said.entropy}, statistic {said.statistic}, threshold "
            f"{said.threshold}; allowed: finite, entropy 0 to 1"
        )
    if len(said.watched) > _MOST_WATCHED:
        return f"watches {len(said.watched)} rules; allowed: {_MOST_WATCHED}"
    return _objection_to_names(said) or _objection_to_quantiles(said, num_classes)


def _objection_to_names(said: Observation) -> str | None:
    names = said.new_class_names
    if len(names) > MOST_NEW_CLASSES or len(set(names)) < len(names):
        return (
            f"announces {len(names)} classes, {len(set(names))} of them different; allowed: "
            f"{MOST_NEW_CLASSES}, each once"
        )
    if names and not said.signal:
        return f"announces {len(names)} classes and says that nothing is new"
    if not all(0 < len(each.strip()) <= _LONGEST_NAME for each in names):
        return (
            f"announces a class without a name, or with one of more than {_LONGEST_NAME} characters"
        )
    return None


def _objection_to_quantiles(said: Observation, num_classes: int) -> str | None:
    levels = said.usual_entropy
    if levels is None:
        return None
    if len(levels) != len(QUANTILE_LEVELS) or said.num_held_back < len(QUANTILE_LEVELS):
        return (
            f"reports {len(levels)} quantiles of {said.num_held_back} images; allowed: "
            f"{len(QUANTILE_LEVELS)} quantiles of as many or more"
        )
    largest = log(max(num_classes, 1)) + _ROUNDING
    if not all(isfinite(each) and 0 <= each <= largest for each in levels) or list(
        levels
    ) != sorted(levels):
        return (
            f"reports quantiles of entropies that cannot be; allowed: 0 to {largest:.3f} nats for "
            f"{num_classes} classes, in ascending order"
        )
    return None
