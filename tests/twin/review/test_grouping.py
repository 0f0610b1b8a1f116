import tracemalloc
from time import process_time
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from twin.review.grouping import LEFTOVER, assign, centre_of, evenly, group, similarity_limit


def blobs(
    count: int, groups: int, size: int = 32, noise: float = 0.35, seed: int = 1
) -> tuple[NDArray[Any], ...]:
    """Vectors around random directions, and the group of each."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (groups, size))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    labels = rng.integers(0, groups, count)
    return (centres[labels] + rng.normal(0, noise / np.sqrt(size), (count, size))).astype(
        np.float32
    ), labels


def same_partition(one: NDArray[Any], other: NDArray[Any]) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("noise", [0.35, 1.2])
def test_groups_are_those_of_average_linkage_in_the_package(
    similarity: float, noise: float
) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    features, _ = blobs(300, 7, noise=noise)
    package = cluster.AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=1 - similarity
    )
    assert same_partition(group(features, similarity, minimum=1), package.fit_predict(features))


def test_groups_of_blobs_are_the_blobs() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    features, truth = blobs(2000, 20, noise=0.7)
    assert metrics.adjusted_rand_score(truth, group(features, 0.5, minimum=5)) > 0.99


def test_groups_of_more_images_than_are_compared_at_once_are_the_blobs_too() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    features, truth = blobs(3000, 12)
    labels = group(features, 0.5, minimum=5, most_at_once=256)
    assert metrics.adjusted_rand_score(truth, labels) > 0.99


def test_a_blob_that_the_first_sample_hardly_met_is_found_in_a_later_turn() -> None:
    features, truth = blobs(2000, 2)
    rare, _ = blobs(12, 1, seed=9)
    places = np.sort(
        np.setdiff1d(np.arange(len(features)), evenly(len(features), 100))[:12]
    )  # none is in the first sample
    features[places] = rare
    labels = group(features, 0.5, minimum=8, most_at_once=100)
    assert len(set(labels[places])) == 1
    assert (labels == labels[places[0]]).sum() == 12
    assert len(set(labels[np.delete(np.arange(2000), places)])) == len(set(truth))


def test_a_chain_of_neighbours_is_not_one_giant_group() -> None:
    angles = np.linspace(0, np.pi, 400)
    chain = np.stack([np.cos(angles), np.sin(angles)], 1)
    labels = group(chain, 0.9, minimum=2)
    assert labels.max() >= 3
    for label in range(labels.max() + 1):
        members = chain[labels == label]
        assert (members @ members.T).mean() >= 0.9


def test_singletons_are_left_over() -> None:
    features, _ = blobs(200, 3)
    strays = np.random.default_rng(5).normal(0, 1, (20, 32)).astype(np.float32)
    labels = group(np.concatenate([features, strays]), 0.6, minimum=5)
    assert set(labels[:200]) == {0, 1, 2}
    assert (labels[200:] == LEFTOVER).all()


def test_the_largest_group_comes_first_and_no_more_than_asked_are_kept() -> None:
    features = np.repeat(np.eye(4), [3, 9, 5, 7], axis=0)
    assert group(features, 0.5).tolist() == [3] * 3 + [0] * 9 + [2] * 5 + [1] * 7
    assert group(features, 0.5, most_groups=2).tolist() == [-1] * 3 + [0] * 9 + [-1] * 5 + [1] * 7


def test_an_image_of_a_small_group_joins_a_large_one_that_is_similar_enough() -> None:
    features = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0.8, 0.6], [0.8, 0.6]])
    assert group(features, 0.79, minimum=3).tolist() == [0] * 6
    assert group(features, 0.81, minimum=3).tolist() == [0] * 4 + [-1] * 2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_form_no_group(count: int) -> None:
    assert group(np.eye(3)[:count], 0.5, minimum=3).tolist() == [LEFTOVER] * count


def test_identical_and_empty_images_end() -> None:
    features = np.concatenate([np.ones((300, 8)) / 3, np.zeros((50, 8))])
    labels = group(features, 0.5, minimum=10)
    assert (labels[:300] == 0).all()
    assert (labels[300:] == LEFTOVER).all()


@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(-0.5, 0.99))
def test_the_order_of_images_changes_no_group(seed: int, count: int, similarity: float) -> None:
    rng = np.random.default_rng(seed)
    features, order = rng.normal(0, 1, (count, 6)), rng.permutation(count)
    labels, shuffled = (
        group(features, similarity, minimum=1),
        group(features[order], similarity, minimum=1),
    )
    assert same_partition(labels[order], shuffled)


def test_the_same_images_give_the_same_groups() -> None:
    features, _ = blobs(500, 9, noise=1.5)
    assert group(features, 0.3, minimum=4).tolist() == group(features, 0.3, minimum=4).tolist()


def test_later_images_join_the_group_they_are_most_similar_to() -> None:
    features, truth = blobs(400, 4)
    labels = group(features[:200], 0.5)
    centres = np.stack([centre_of(features[:200][labels == label]) for label in range(4)])
    joins = assign(features[200:], centres, 0.5)
    assert same_partition(np.concatenate([labels, joins]), truth)
    assert assign(-features[:5], centres, 0.5).tolist() == [LEFTOVER] * 5
    assert assign(features[:5], np.empty((0, 32)), 0.5).tolist() == [LEFTOVER] * 5


def test_a_centre_times_a_vector_is_the_mean_similarity_to_the_members() -> None:
    features, _ = blobs(30, 1)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    slow = np.mean([float(unit[0] @ each) for each in unit])
    assert float(unit[0] @ centre_of(features)) == pytest.approx(slow, abs=1e-6)


def test_the_limit_lies_between_neighbouring_and_within_known_classes() -> None:
    places, names = blobs(600, 3, noise=0.8)
    names = [str(name) for name in names]  # type: ignore[assignment]  # changes its type
    unit = places / np.linalg.norm(places, axis=1, keepdims=True)
    means = [unit[[each == name for each in names]].mean(0) for name in "012"]
    within = np.mean([mean @ mean for mean in means])
    between = np.mean([max(means[a] @ means[b] for b in range(3) if a != b) for a in range(3)])
    assert similarity_limit(places, cast(Any, names), 0.0) == pytest.approx(between, abs=1e-6)
    assert similarity_limit(places, cast(Any, names), 1.0) == pytest.approx(within, abs=1e-6)
    assert similarity_limit(places[:5], ["a"] * 5, 0.0) == 0


def test_two_thousand_images_are_grouped_in_five_seconds_and_little_memory() -> None:
    features, _ = blobs(2000, 40, size=512, noise=1.5)
    began = process_time()  # not the clock on the wall: others work on this machine too
    group(features, 0.2, minimum=8)
    assert process_time() - began < 5
    tracemalloc.start()
    group(features, 0.2, minimum=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
