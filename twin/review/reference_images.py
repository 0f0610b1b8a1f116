"""Reference images: the hospital's named images of classes that the model knows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physical.mirror import ImageFacts
from twin.review.grouping import similarity_limit
from twin.review.novelty_scores import (
    KnownClasses,
    Looks,
    NoveltyError,
    Score,
    score,
    threshold_from,
)


@dataclass(frozen=True)
class ReferenceImages:
    """The hospital's usual.

    Args:
        facts: Of the named images; each has a class name.
        looks: What the model sees in them.
        known: Their classes in the space of features.
        score: Name of the score.
        threshold: Above it an image looks new.
        similarity: At which groups are parted.
    """

    facts: Sequence[ImageFacts]
    looks: Looks
    known: KnownClasses
    score: Score
    threshold: float
    similarity: float

    def scores(self, looks: Looks) -> NDArray[np.float32]:
        """Return how new images look; above ``threshold`` they do."""
        return (
            self.known.distance(looks.features)
            if self.score == "distance"
            else score(looks.logits, self.score)
        )

    def are_new(self, looks: Looks) -> NDArray[np.bool_]:
        """Return which images look new."""
        return np.asarray(self.scores(looks) > self.threshold)


def make_reference_images(
    facts: Sequence[ImageFacts],
    looks: Looks,
    score_name: Score,
    quantile: float,
    minimum: int,
    tightness: float,
    held_back: Collection[str] = (),
) -> ReferenceImages:
    """Return the standard of a history.

    Args:
        facts: Of named images of classes that the model knows.
        looks: What the model sees in them.
        score_name: Which score.
        quantile: Share of known images that shall look familiar.
        minimum: Fewest images from which anything is decided.
        tightness: How alike the images of a group must be, in [0, 1] (``similarity_limit``).
        held_back: Ids of those that the model was not trained on. Where they are ``minimum`` or
            more, the threshold is theirs alone and the classes are those of the others, so that new
            images are measured just as they were.

    Raises:
        NoveltyError: If the history is too small.
    """
    check_history(len(facts), minimum)
    names = _names(facts)
    measured = _held_back(facts, frozenset(held_back), minimum)
    fitted = np.ones(len(facts), bool) if measured.all() else ~measured
    known = KnownClasses.fit(looks.features[fitted], list(names[fitted]))
    if score_name != "distance":
        usual = score(looks.logits[measured], score_name)
    elif not measured.all():
        usual = known.distance(looks.features[measured])
    else:
        usual = _distances_between_patients(facts, looks)
    threshold = threshold_from(usual, quantile, minimum)
    similarity = similarity_limit(
        known.places(looks.features[measured]), list(names[measured]), tightness
    )
    return ReferenceImages(facts, looks, known, score_name, threshold, similarity)


def check_history(count: int, minimum: int) -> None:
    """Raise where a history is too small to decide anything.

    Raises:
        NoveltyError: If it is.
    """
    if count < minimum:
        raise NoveltyError(
            f"the history has {count} named images of known classes; allowed: {minimum} or more; "
            "name more images"
        )


def _held_back(facts: Sequence[ImageFacts], ids: frozenset[str], minimum: int) -> NDArray[np.bool_]:
    """Return which images the threshold is taken from: those held back.

    All, where these are few or others lack one of their classes.
    """
    names, held_back = _names(facts), np.array([each.image_id in ids for each in facts])
    is_enough = held_back.sum() >= minimum and np.isin(names[held_back], names[~held_back]).all()
    return held_back if is_enough else np.ones(len(facts), bool)


def _distances_between_patients(facts: Sequence[ImageFacts], looks: Looks) -> NDArray[np.float32]:
    """Return distances of every second patient's images to the others' classes, and vice versa.

    Distances from classes that were fitted to the same images, or to others of the same scan, would
    be too small. Images of a class that only one half has are left out.
    """
    names = _names(facts)
    patients = {
        patient: number
        for number, patient in enumerate(dict.fromkeys(each.patient for each in facts))
    }
    numbers = (
        np.array([patients[each.patient] for each in facts])
        if len(patients) > 1
        else np.arange(len(facts))
    )
    found = []
    for fitted in (numbers % 2 == 0, numbers % 2 == 1):
        measured = ~fitted & np.isin(names, names[fitted])
        if fitted.sum() >= 2 and measured.any():
            found.append(
                KnownClasses.fit(looks.features[fitted], list(names[fitted])).distance(
                    looks.features[measured]
                )
            )
    return np.concatenate([np.empty(0, np.float32), *found])


def _names(facts: Sequence[ImageFacts]) -> NDArray[Any]:
    return np.array([str(each.class_name) for each in facts])
