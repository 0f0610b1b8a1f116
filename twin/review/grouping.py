"""Grouping of similar images by their features.

So a clinician judges tens of groups and not thousands of images. Numpy alone.

Average linkage on cosine similarity (UPGMA; Sokal and Michener 1958), cut where the mean similarity
of two groups falls below a limit: two groups join only if their images are alike on average, so
that no chain of neighbours runs through everything, as it does with connected components of a
neighbour graph. Nearest-neighbour chains (Murtagh 1983) find the same groups in time N^2. No
randomness: the same images in the same order give the same groups. Knows no model, no image and no
case.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twin.review.novelty_scores import unit_length

LEFTOVER = -1
_MOST_AT_ONCE = (
    4096  # images whose similarities are held together: 64 MiB; more are grouped in turns
)


def group(
    features: NDArray[np.floating],
    similarity: float,
    minimum: int = 2,
    most_groups: int | None = None,
    most_at_once: int = _MOST_AT_ONCE,
) -> NDArray[np.int64]:
    """Group vectors by direction.

    Of more vectors than are compared at once, an even sample is grouped, the others join the
    sample's groups where they fit, and what remains is grouped in the next turn.

    Args:
        features: Shape [N, D]; their length does not count.
        similarity: Smallest mean cosine similarity at which groups are joined, in [-1, 1].
        minimum: Smaller groups are dissolved; their images join the group they are most similar to,
            or are left over.
        most_groups: The largest are kept; images of others are left over.
        most_at_once: Bounds memory to ``4 most_at_once^2`` bytes.

    Returns:
        Group of each vector from 0, the largest first, or ``LEFTOVER``; shape [N].
    """
    units = unit_length(features).astype(np.float32)
    labels = np.full(len(units), LEFTOVER, np.int64)
    waiting, found = np.arange(len(units)), 0
    while len(waiting) >= max(minimum, 1):
        sample = waiting[evenly(len(waiting), most_at_once)]
        labels[sample] = _without_small(
            units[sample], _average_linkage(units[sample], similarity), similarity, minimum, found
        )
        if len(sample) == len(waiting):
            break
        fresh = int(labels.max()) + 1
        if fresh > found:
            others = np.setdiff1d(waiting, sample, assume_unique=True)
            joins = assign(
                units[others], _centres(units[sample], labels[sample], found, fresh), similarity
            )
            labels[others] = np.where(joins == LEFTOVER, LEFTOVER, joins + found)
        left = np.setdiff1d(
            waiting, sample, assume_unique=True
        )  # a sample's own leftovers had their chance
        waiting, found = left[labels[left] == LEFTOVER], max(found, fresh)
    return _largest_first(labels, most_groups)


def assign(
    features: NDArray[np.floating], centres: NDArray[np.floating], similarity: float
) -> NDArray[np.int64]:
    """Put later vectors to groups that exist.

    Args:
        features: Shape [N, D].
        centres: Mean unit vector of each group, shape [G, D], as ``centre_of`` returns it: its
            product with a unit vector is the mean similarity to the group's members.
        similarity: Smallest mean similarity with which a vector joins.

    Returns:
        Index of the best group, or ``LEFTOVER``; shape [N].
    """
    if not len(centres) or not len(features):
        return np.full(len(features), LEFTOVER, np.int64)
    alike = unit_length(features) @ np.asarray(centres, np.float64).T
    best = alike.argmax(1)
    return np.where(alike[np.arange(len(best)), best] >= similarity, best, LEFTOVER).astype(
        np.int64
    )


def centre_of(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean of the vectors' directions, shape [D]; the looser the group, the shorter."""
    return np.asarray(unit_length(features).mean(0))


def similarity_limit(
    places: NDArray[np.floating], class_names: Sequence[str], tightness: float
) -> float:
    """Return the similarity at which groups shall be parted.

    From how alike the images of known classes are.

    At 0, groups are as loose as two neighbouring known classes are to each other; at 1, as tight as
    a known class is, which a network was trained to draw together, as it was not for a new one.

    Args:
        places: Of images of known classes, where groups are sought, shape [N, D].
        class_names: Name of each.
        tightness: In [0, 1].
    """
    named = np.array(class_names)
    centres = np.stack([centre_of(places[named == name]) for name in sorted(set(class_names))])
    alike = centres @ centres.T
    within = float(np.diag(alike).mean())
    np.fill_diagonal(alike, -np.inf)
    between = float(alike.max(1).mean()) if len(centres) > 1 else 0.0
    return between + tightness * (within - between)


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return the places of ``most`` of ``count`` things, evenly taken; all if there are fewer."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _average_linkage(units: NDArray[np.float32], similarity: float) -> NDArray[np.int64]:
    """Return the groups of unit vectors by nearest-neighbour chains.

    Whatever is nearest to each other is joined, wherever the chain meets it: joining never makes a
    group more similar to a third one than its parts were (average linkage is reducible), so the
    order does not matter, and a group without a neighbour above the limit is done.
    """
    count = len(units)
    alike = units @ units.T
    np.fill_diagonal(alike, -np.inf)
    members = [[index] for index in range(count)]
    open_groups, labels = np.ones(count, bool), np.empty(count, np.int64)
    chain: list[int] = []
    for start in range(count):
        while open_groups[start] or chain:
            tip = chain[-1] if chain else start
            if not chain:
                chain.append(tip)
            row = alike[tip]
            nearest = int(row.argmax())
            if len(chain) > 1 and row[chain[-2]] >= row[nearest]:
                nearest = chain[-2]  # of equals the one that the chain comes from: it ends
            if row[nearest] < similarity:
                labels[members[tip]] = tip
                _close(alike, open_groups, chain.pop())
            elif len(chain) > 1 and nearest == chain[-2]:
                del chain[-2:]
                _join(
                    alike,
                    tip,
                    nearest,
                    len(members[tip]) / (len(members[tip]) + len(members[nearest])),
                )
                members[nearest] += members[tip]
                _close(alike, open_groups, tip)
            else:
                chain.append(nearest)
    return labels


def _join(alike: NDArray[np.float32], one: int, other: int, share: float) -> None:
    """Put the mean similarities of both groups together in the place of ``other``.

    ``share`` is the part of ``one``.
    """
    both = np.stack([alike[one], alike[other]])
    mean = share * both[0] + (1 - share) * both[1]
    alike[other] = alike[:, other] = np.clip(
        mean, both.min(0), both.max(0)
    )  # rounding must not lift it: chains could run in circles
    alike[other, other] = -np.inf


def _close(alike: NDArray[np.float32], open_groups: NDArray[np.bool_], index: int) -> None:
    alike[index] = alike[:, index] = -np.inf
    open_groups[index] = False


def _without_small(
    units: NDArray[np.float32],
    groups: NDArray[np.int64],
    similarity: float,
    minimum: int,
    first_label: int,
) -> NDArray[np.int64]:
    """Return labels from ``first_label`` on.

    Images of small groups join others or are left over.
    """
    found, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    kept = np.full(len(found), LEFTOVER, np.int64)
    kept[counts >= minimum] = first_label + np.arange((counts >= minimum).sum())
    labels = kept[numbers]
    small = labels == LEFTOVER
    last = first_label + int((counts >= minimum).sum())
    joins = assign(units[small], _centres(units, labels, first_label, last), similarity)
    labels[small] = np.where(joins == LEFTOVER, LEFTOVER, joins + first_label)
    return labels


def _centres(
    units: NDArray[np.float32], labels: NDArray[np.int64], first: int, last: int
) -> NDArray[np.float64]:
    return np.array([centre_of(units[labels == label]) for label in range(first, last)]).reshape(
        last - first, units.shape[1]
    )


def _largest_first(labels: NDArray[np.int64], most_groups: int | None) -> NDArray[np.int64]:
    found, counts = np.unique(labels[labels != LEFTOVER], return_counts=True)
    order = found[np.argsort(-counts, kind="stable")][:most_groups]
    number = np.full(
        int(labels.max(initial=LEFTOVER)) + 2, LEFTOVER, np.int64
    )  # the last one is LEFTOVER's own place
    number[order] = np.arange(len(order))
    return number[labels]
