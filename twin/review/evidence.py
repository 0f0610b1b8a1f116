"""Evidence for clinicians about a group of images: nearest classes, histograms, examples.

Makes the review store's plain values from what a model saw. Knows no database and no pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physical.mirror import ImageFacts
from twin.review.cases import CaseImage, CaseSummary
from twin.review.grouping import centre_of, evenly
from twin.review.novelty_scores import KnownClasses, Looks, unit_length
from twin.review.reference_images import ReferenceImages

BINS = 20
_NEAREST, _EXEMPLARS, _REPRESENTATIVES = 3, 6, 12


@dataclass(frozen=True)
class Sighted:
    """Images with what is known and seen of them.

    Args:
        facts: What the mirror knows, N images.
        looks: What the model sees.
        places: Where they lie among the known classes, shape [N, D].
    """

    facts: tuple[ImageFacts, ...]
    looks: Looks
    places: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.facts)

    @property
    def ids(self) -> list[str]:
        """The images' ids."""
        return [each.image_id for each in self.facts]

    def take(self, chosen: NDArray[np.bool_]) -> "Sighted":
        """Return some of them."""
        return Sighted(
            tuple(self.facts[index] for index in np.flatnonzero(chosen)),
            self.looks.take(chosen),
            self.places[chosen],
        )


def case_images(
    images: Sighted, centre: NDArray[np.floating], class_names: Sequence[str]
) -> list[CaseImage]:
    """Return a group's images as a case holds them.

    Args:
        images: The group.
        centre: Where its middle is, shape [D].
        class_names: The model's, in the order of its rows.
    """
    distances = np.maximum(1 - unit_length(images.places) @ unit_length(centre[None])[0], 0)
    seen = zip(
        images.facts,
        images.looks.entropy_fractions,
        images.looks.top(class_names),
        distances,
        strict=True,
    )
    return [
        CaseImage(facts.image_id, float(entropy), top, float(distance), facts.arrived)
        for facts, entropy, top, distance in seen
    ]


def summarise(
    images: Sequence[CaseImage], looks: Looks, standard: ReferenceImages, model_version: str
) -> CaseSummary:
    """Return what is said of a group.

    Args:
        images: All of its images.
        looks: What the model sees in them, or in some of them where the group is old and large.
        standard: What they are measured by.
        model_version: For people to read.
    """
    entropies = np.array([image.entropy for image in images])
    nearest = nearest_classes(looks.features, standard.known)
    return CaseSummary(
        num_images=len(images),
        mean_entropy=float(entropies.mean()),
        nearest=nearest,
        nearest_exemplars={name: exemplars(name, standard) for name, _ in nearest},
        entropy_histogram=histogram(entropies),
        usual_histogram=histogram(standard.looks.entropy_fractions),
        score_name=standard.score,
        threshold=standard.threshold,
        model_version=model_version,
        representative=representatives(images),
    )


def nearest_classes(
    features: NDArray[np.float32], known: KnownClasses
) -> tuple[tuple[str, float], ...]:
    """Return the known classes whose mean direction is nearest to a group's.

    With the cosine of the two in [-1, 1].
    """
    alike = unit_length(known.means) @ unit_length(centre_of(features)[None])[0]
    order = np.argsort(-alike, kind="stable")[:_NEAREST]
    return tuple((known.names[row], float(alike[row])) for row in order)


def exemplars(class_name: str, standard: ReferenceImages) -> tuple[str, ...]:
    """Return the hospital's most typical images of a class, of different patients first.

    Slices of one scan show little more than one.
    """
    own = np.array(
        [index for index, facts in enumerate(standard.facts) if facts.class_name == class_name],
        np.int64,
    )
    features = standard.looks.features[own]
    order = own[np.argsort(-(unit_length(features) @ centre_of(features)), kind="stable")]
    seen: set[str] = set()
    repeated = []
    for index in order:
        repeated.append(standard.facts[index].patient in seen)
        seen.add(standard.facts[index].patient)
    ranked = order[np.argsort(repeated, kind="stable")]
    return tuple(standard.facts[index].image_id for index in ranked[:_EXEMPLARS])


def representatives(images: Sequence[CaseImage]) -> tuple[str, ...]:
    """Return a few images that stand for a group: from its centre to its border in even steps."""
    ordered = sorted(images, key=lambda image: (image.distance, image.image_id))
    return tuple(ordered[index].image_id for index in evenly(len(ordered), _REPRESENTATIVES))


def histogram(fractions: NDArray[np.floating]) -> tuple[int, ...]:
    """Return how many entropies lie in each of 20 even bins from 0 to 1."""
    counts, _ = np.histogram(np.clip(fractions, 0, 1), bins=BINS, range=(0, 1))
    return tuple(int(count) for count in counts)
