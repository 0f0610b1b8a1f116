from math import exp, log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import float64
from numpy.typing import NDArray

from twin.review.novelty_scores import (
    KnownClasses,
    Looks,
    NoveltyError,
    entropy_fraction,
    joined,
    score,
    shrinkage,
    softmax,
    threshold_from,
    unit_length,
)

LOGITS = np.random.default_rng(1).normal(0, 3, (40, 7)).astype(np.float32)


def slow_softmax(row: list[float]) -> list[float]:
    total = sum(exp(value) for value in row)
    return [exp(value) / total for value in row]


def slow_score(row: list[float], name: str) -> float:
    probabilities = slow_softmax(row)
    if name == "entropy":
        return -sum(p * log(p) for p in probabilities) / log(len(row))
    if name == "max_softmax":
        return 1 - max(probabilities)
    return -log(sum(exp(value) for value in row))


@pytest.mark.parametrize("name", ["entropy", "max_softmax", "energy"])
def test_each_score_is_its_equation_in_a_slow_loop(name: Any) -> None:
    expected = [slow_score([float(value) for value in row], name) for row in LOGITS]
    np.testing.assert_allclose(score(LOGITS, name), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["entropy", "max_softmax", "energy"])
def test_whoever_is_less_sure_scores_higher(name: Any) -> None:
    scores = score(np.array([[9, 0, 0], [4, 0, 0], [1, 0, 0], [0, 0, 0]], np.float32), name)
    assert (np.diff(scores) > 0).all()


@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=5
    )
)
def test_scores_stay_finite_and_in_their_ranges(rows: list[list[float]]) -> None:
    logits = np.array(rows, np.float32)
    for name in ("entropy", "max_softmax"):
        assert ((score(logits, name) >= 0) & (score(logits, name) <= 1)).all()
    assert np.isfinite(score(logits, "energy")).all()


def test_a_model_of_one_class_tells_no_novelty() -> None:
    assert entropy_fraction(np.zeros((2, 1), np.float32)).tolist() == [0, 0]
    with pytest.raises(NoveltyError, match=r"allowed: \[N, C\] with C 2 or more"):
        score(np.zeros((2, 1), np.float32), "entropy")


def test_a_distance_is_no_score_of_logits() -> None:
    with pytest.raises(NoveltyError, match="told by KnownClasses"):
        score(LOGITS, "distance")


def test_the_threshold_lets_no_more_known_images_pass_than_promised() -> None:
    rng = np.random.default_rng(2)
    shares = []
    for _ in range(400):
        threshold = threshold_from(rng.normal(0, 1, 99).astype(np.float32), 0.95, 20)
        shares.append((rng.normal(0, 1, 500) > threshold).mean())
    assert np.mean(shares) == pytest.approx(0.05, abs=0.005)


def test_the_threshold_is_the_score_of_that_rank() -> None:
    history = np.random.default_rng(3).permutation(99).astype(np.float32)
    assert threshold_from(history, 0.95, 20) == 94  # the 95th smallest of 0 to 98


@pytest.mark.parametrize(
    ("count", "quantile", "needed"), [(0, 0.95, 50), (49, 0.95, 50), (50, 0.99, 99)]
)
def test_a_short_history_decides_nothing(count: int, quantile: float, needed: int) -> None:
    with pytest.raises(
        NoveltyError, match=rf"the history has {count} .* allowed: {needed} or more"
    ):
        threshold_from(np.zeros(count, np.float32), quantile, 50)


def test_nineteen_images_are_enough_for_one_in_twenty() -> None:
    assert threshold_from(np.arange(19, dtype=np.float32), 0.95, 2) == 18


def test_a_quantile_of_one_is_an_error() -> None:
    with pytest.raises(NoveltyError, match="above 0 and below 1"):
        threshold_from(np.zeros(100, np.float32), 1.0, 2)


def test_covariance_is_shrunk_by_the_share_of_the_package() -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    rng = np.random.default_rng(4)
    for count, size in ((30, 50), (300, 8)):
        centred = rng.normal(0, 1, (count, size)) @ rng.normal(0, 1, (size, size))
        centred -= centred.mean(0)
        assert shrinkage(centred) == pytest.approx(
            covariance.ledoit_wolf_shrinkage(centred), rel=1e-9
        )
    assert shrinkage(np.zeros((4, 3))) == 1


def test_vectors_without_spread_have_no_covariance_and_still_a_distance() -> None:
    known = KnownClasses.fit(np.ones((4, 3), np.float32), ["liver", "liver", "heart", "heart"])
    assert np.isfinite(known.distance(np.eye(3, dtype=np.float32))).all()


def features_of_classes(
    rng: Any, centres: list[NDArray[Any]] | NDArray[Any], count: int = 60, noise: float = 0.05
) -> NDArray[Any]:
    return np.concatenate(
        [rng.normal(centre, noise, (count, len(centre))) for centre in centres]
    ).astype(np.float32)


def slow_distance(known: KnownClasses, feature: NDArray[Any]) -> float64:
    unit = feature / np.linalg.norm(feature)
    within, whole = (
        np.linalg.inv(known.whitening @ known.whitening.T),
        np.linalg.inv(known.spread @ known.spread.T),
    )
    nearest = min((unit - mean) @ np.linalg.inv(within) @ (unit - mean) for mean in known.means)
    return nearest - (unit - known.middle) @ np.linalg.inv(whole) @ (unit - known.middle)


def test_distance_is_its_equation_in_a_slow_loop() -> None:
    rng = np.random.default_rng(5)
    known = KnownClasses.fit(
        features_of_classes(rng, np.eye(4)[:3]), ["a"] * 60 + ["b"] * 60 + ["c"] * 60
    )
    images = rng.normal(0, 1, (20, 4)).astype(np.float32)
    np.testing.assert_allclose(
        known.distance(images),
        [slow_distance(known, each.astype(np.float64)) for each in images],
        rtol=1e-4,
        atol=1e-3,
    )


def test_distance_finds_a_class_of_which_the_network_is_sure() -> None:
    rng = np.random.default_rng(6)
    known = KnownClasses.fit(
        features_of_classes(rng, 3 * np.eye(5)[:3], noise=0.2), ["a"] * 60 + ["b"] * 60 + ["c"] * 60
    )
    new = features_of_classes(rng, [np.array([6.0, 0, 0, 4.0, 0])], noise=0.2)
    logits = new[:, :3]  # the head reads the first three: large, and so very sure
    old = features_of_classes(rng, 3 * np.eye(5)[:3], noise=0.2)
    assert score(logits, "entropy").mean() < score(old[:, :3], "entropy").mean()
    assert known.distance(new).min() > known.distance(old).max()


def test_the_length_of_a_feature_does_not_count() -> None:
    rng = np.random.default_rng(7)
    known = KnownClasses.fit(
        features_of_classes(rng, np.eye(3)), ["a"] * 60 + ["b"] * 60 + ["c"] * 60
    )
    images = rng.normal(1, 1, (9, 3)).astype(np.float32)
    np.testing.assert_allclose(
        known.distance(images), known.distance(images * 7), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(np.linalg.norm(known.places(images), axis=1), 1, rtol=1e-5)


def test_with_one_known_class_the_far_is_still_farther() -> None:
    rng = np.random.default_rng(8)
    known = KnownClasses.fit(features_of_classes(rng, np.eye(3)[:1]), ["a"] * 60)
    near, far = known.distance(np.array([[1, 0.01, 0], [0, 1, 0]], np.float32))
    assert far > near


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"]])
def test_classes_need_as_many_names_as_features(names: list[str]) -> None:
    with pytest.raises(NoveltyError, match="as many, 2 or more"):
        KnownClasses.fit(np.eye(len(names) // 2 + 1, dtype=np.float32), names)


def test_looks_tell_the_likeliest_classes_first() -> None:
    looks = Looks(np.zeros((1, 2), np.float32), np.array([[0, 2, 1, -1]], np.float32), "m")
    top = looks.top(("a", "b", "c", "d"))[0]
    assert [name for name, _ in top] == ["b", "c", "a"]
    assert [value for _, value in top] == pytest.approx(sorted(softmax(looks.logits)[0])[:0:-1])
    assert looks.rows.tolist() == [1]


def test_looks_of_two_models_are_not_joined() -> None:
    looks = [
        Looks(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32), model)
        for model in ("one", "two")
    ]
    assert len(joined([looks[0], looks[0]])) == 2
    with pytest.raises(NoveltyError, match="looks of 2 models"):
        joined(looks)


def test_what_has_no_length_stays_nothing() -> None:
    assert unit_length(np.zeros((1, 3))).tolist() == [[0, 0, 0]]
