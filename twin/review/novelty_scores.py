"""Novelty scores of images under a model, higher is newer, and their threshold.

Four scores. ``entropy`` (the default): entropy of the softmax as a fraction of ln C.
``max_softmax``: 1 minus the largest probability (Hendrycks and Gimpel, ICLR 2017). ``energy``: -log
sum exp of the logits (Liu et al., NeurIPS 2020). ``distance``: how much farther an image's features
lie from the nearest known class than from the known classes as a whole (relative Mahalanobis
distance, Ren et al. 2021, on features of unit length). The first three read logits and fail where a
network is surer of a new organ than of those it knows; a test in both directions would not mend
that, as known organs are sure as well. The distance asks another question: it does not look at how
sure the network is, but at whether it saw anything there before.

Numpy alone. Knows no network, no file and no case.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from incremental.detection import entropy

Score = Literal["entropy", "max_softmax", "energy", "distance"]
SCORES: tuple[Score, ...] = get_args(Score)
_LEAST_SHRINKAGE = (
    0.1  # of covariances; chosen on validation images, where 0.01 to 0.3 are nearly the same
)


class NoveltyError(ValueError):
    """Something from which no novelty can be told: what, got, allowed, what to do."""


@dataclass(frozen=True)
class ModelFacts:
    """Which model looks.

    Args:
        folder: Where it was read.
        digest: Of its weights.
        class_names: In the order of the head's rows.
    """

    folder: str
    digest: str
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Looks:
    """What a model sees in N images.

    Args:
        features: Shape [N, D].
        logits: Shape [N, C].
        model: Digest of the model that looked.
    """

    features: NDArray[np.float32]
    logits: NDArray[np.float32]
    model: str = ""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.logits)

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> "Looks":
        """Return the looks at some of the images."""
        return Looks(self.features[chosen], self.logits[chosen], self.model)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of the head with the largest logit, shape [N]."""
        return np.asarray(self.logits.argmax(1), np.int64)

    @property
    def entropy_fractions(self) -> NDArray[np.float32]:
        """Entropy as a fraction of ln C, in [0, 1], shape [N]."""
        return entropy_fraction(self.logits)

    def top(
        self, class_names: Sequence[str], count: int = 3
    ) -> list[tuple[tuple[str, float], ...]]:
        """Return for each image its likeliest classes with their probabilities, likeliest first."""
        probabilities = softmax(self.logits)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
        return [
            tuple((class_names[row], float(values[row])) for row in rows)
            for rows, values in zip(order, probabilities, strict=True)
        ]


def joined(parts: Sequence[Looks]) -> Looks:
    """Return the looks of several batches as one.

    Raises:
        NoveltyError: If there is none, or two models looked.
    """
    models = sorted({each.model for each in parts})
    if len(models) != 1:
        raise NoveltyError(
            f"looks of {len(models)} models ({', '.join(models)}); allowed: of one; look again "
            "with one model"
        )
    return Looks(
        np.concatenate([each.features for each in parts]),
        np.concatenate([each.logits for each in parts]),
        models[0],
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of logits, shape [N, C]."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True), np.float32)


def entropy_fraction(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``-sum_c p_c ln p_c / ln C`` of each image, in [0, 1].

    A model of one class is never unsure.
    """
    return np.asarray(
        np.clip(entropy(logits) / np.float32(log(logits.shape[1]) or 1.0), 0, 1), np.float32
    )


def score(logits: NDArray[np.float32], name: Score) -> NDArray[np.float32]:
    """Return how new each image looks by its logits; higher is newer.

    Args:
        logits: Shape [N, C].
        name: ``entropy``: as a fraction of ln C, in [0, 1]; ``max_softmax``: ``1 - max_c p_c``, in
            [0, 1]; ``energy``: ``-ln sum_c exp(logit_c)``, any number. A ``distance`` needs
            features: ask ``KnownClasses``.

    Raises:
        NoveltyError: If the name is none of these or the model knows fewer than two classes.
    """
    if name not in _BY_LOGITS:
        raise NoveltyError(
            f"score of logits is '{name}'; allowed: {', '.join(_BY_LOGITS)}; 'distance' is told by "
            "KnownClasses.distance"
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise NoveltyError(
            f"logits have the shape {list(logits.shape)}; allowed: [N, C] with C 2 or more; take a "
            "model of two classes or more"
        )
    return _BY_LOGITS[name](logits)


def threshold_from(history: NDArray[np.float32], quantile: float, minimum: int) -> float:
    """Return the score above which an image counts as new.

    At most a share of ``1 - quantile`` of known images will exceed it.

    The ``ceil((M + 1) quantile)``-th smallest of M scores (split conformal prediction): this holds
    for any distribution of scores, as long as new images of known classes are drawn as the history
    was.

    Args:
        history: Scores of images of known classes, better of images that the model was not trained
            on.
        quantile: Share of known images that shall stay below, above 0 and below 1.
        minimum: Fewest images from which anything is decided.

    Raises:
        NoveltyError: If there are too few images; a threshold from a handful would be one image's
            own score.
    """
    if not 0 < quantile < 1:
        raise NoveltyError(
            f"quantile is {quantile}; allowed: above 0 and below 1; 0.95 lets one of twenty known "
            "images pass for new"
        )
    rank = ceil(
        (len(history) + 1) * quantile - 1e-9
    )  # 0.95 * 20 is a little more than 19 in floating point
    needed = max(minimum, ceil(quantile / (1 - quantile) - 1e-9))
    if len(history) < needed or rank > len(history):
        raise NoveltyError(
            f"the history has {len(history)} named images of known classes; allowed: {needed} or "
            f"more for the quantile {quantile}; name "
            "more images, or lower the quantile"
        )
    return float(np.sort(history)[rank - 1])


@dataclass(frozen=True)
class KnownClasses:
    """Where the known classes lie in the space of features.

    Fitted to a hospital's own named images.

    Features are scaled to unit length: their length says how sure a network is, their direction
    what it sees. All classes share one covariance. It and that of the whole are shrunk towards a
    sphere by the same share, so that directions in which features hardly vary weigh alike in both
    and cancel; shrunk each by its own share, noise in them decides (AUROC 0.84 instead of 0.94 on
    validation images).

    Args:
        names: Classes with images, in alphabetical order.
        means: Mean unit feature of each, shape [K, D].
        whitening: ``x @ whitening`` has the shared covariance 1, shape [D, D].
        middle: Mean of all unit features, shape [D].
        spread: ``x @ spread`` has covariance 1 over all classes together, shape [D, D].
    """

    names: tuple[str, ...]
    means: NDArray[np.float64]
    whitening: NDArray[np.float64]
    middle: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def fit(cls, features: NDArray[np.float32], class_names: Sequence[str]) -> "KnownClasses":
        """Return the known classes of named images.

        Args:
            features: Shape [N, D].
            class_names: Name of each image.

        Raises:
            NoveltyError: If there are fewer than two images or the numbers differ.
        """
        if len(features) != len(class_names) or len(features) < 2:
            raise NoveltyError(
                f"{len(features)} features and {len(class_names)} names; allowed: as many, 2 or "
                "more; name more images"
            )
        units = unit_length(features)
        names = tuple(sorted(set(class_names)))
        rows = np.array([names.index(name) for name in class_names])
        means = np.stack([units[rows == row].mean(0) for row in range(len(names))])
        middle, residuals = units.mean(0), units - means[rows]
        share = max(shrinkage(residuals), _LEAST_SHRINKAGE)
        return cls(
            names, means, _whitening(residuals, share), middle, _whitening(units - middle, share)
        )

    def distance(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``min_k |(u - mean_k) W|^2 - |(u - middle) V|^2`` of each image.

        Higher is farther from every known class.

        With one known class there is no whole to compare with, and the first term stands alone.
        """
        units = unit_length(features)
        whitened = units @ self.whitening
        nearest = np.min(
            np.stack([((whitened - mean @ self.whitening) ** 2).sum(1) for mean in self.means]),
            axis=0,
        )
        whole = (
            (((units - self.middle) @ self.spread) ** 2).sum(1)
            if len(self.names) > 1
            else np.zeros(len(units))
        )
        return np.asarray(nearest - whole, np.float32)

    def places(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where images lie as seen from the middle of the known classes, in a space.

        Where each class is a sphere, unit length.
        """
        return unit_length((unit_length(features) - self.means.mean(0)) @ self.whitening).astype(
            np.float32
        )


def unit_length(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return vectors scaled to length 1; what has no length stays 0."""
    wide = np.asarray(vectors, np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


def shrinkage(centred: NDArray[np.float64]) -> float:
    """Return by which share the covariance of centred rows is best shrunk towards a sphere.

    In [0, 1].

    Source: Ledoit and Wolf, J. Multivariate Analysis 88, 2004, lemma 3.1. The fewer images for the
    features, the more.

    Args:
        centred: Shape [N, D], mean 0.
    """
    count, size = centred.shape
    sample = centred.T @ centred / count
    away = ((sample - np.trace(sample) / size * np.eye(size)) ** 2).sum()
    noise = (((centred**2).sum(1) ** 2).sum() / count - (sample**2).sum()) / count
    return 1.0 if away <= 0 else float(np.clip(noise / away, 0, 1))


def _whitening(centred: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    sample = centred.T @ centred / len(centred)
    values, vectors = np.linalg.eigh(sample)
    shrunk = (1 - share) * values + share * np.trace(sample) / len(sample)
    return np.asarray(vectors / np.sqrt(np.maximum(shrunk, 1e-12)))


def _max_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 - softmax(logits).max(1), np.float32)


def _energy(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = logits.max(1)
    return np.asarray(-(largest + np.log(np.exp(logits - largest[:, None]).sum(1))), np.float32)


_BY_LOGITS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "entropy": entropy_fraction,
    "max_softmax": _max_softmax,
    "energy": _energy,
}
