from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.novelty import (
    COLUMNS,
    Size,
    auroc,
    judge,
    mean_and_spread,
    measure_cases,
    tables,
    trained_model,
)
from physical.batch import Batch
from physical.datasets import entry_of
from physical.datasets.dataset import ImageDataset
from twin.review.novelty_scores import SCORES
from twin.review.triage import TriageConfig

ORGANS = ("heart", "liver", "lung", "spleen")


def made_dataset() -> ImageDataset:
    """Stripes of four directions or widths, told apart in one glance."""
    rows, columns = np.mgrid[0:28, 0:28]
    patterns = [rows // 4 % 2, columns // 4 % 2, (rows + columns) // 4 % 2, rows // 14 % 2]
    rng = np.random.default_rng(1)

    def batch(count: int) -> Batch:
        labels = rng.permutation(np.arange(count) % 4)
        images = np.stack([patterns[label] for label in labels]) * 150 + rng.integers(
            0, 90, (count, 28, 28)
        )
        return Batch(images[..., None].astype(np.uint8), labels.astype(np.int64), ORGANS)

    sheet = replace(entry_of("organamnist").sheet, class_names=ORGANS)
    return ImageDataset(sheet, batch(240), batch(200), batch(200), "md5:made")


def test_area_under_the_curve_is_that_of_the_package() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    scores, is_new = rng.integers(0, 20, 300).astype(np.float32), rng.random(300) < 0.3  # with ties
    assert auroc(scores, is_new) == pytest.approx(metrics.roc_auc_score(is_new, scores))


def test_cases_are_measured_by_their_majority() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, -1, -1])
    is_new = np.array([True, True, True, False, True, False, False, True, True, True, False])
    found = measure_cases(labels, is_new, num_new=10, num_known=500)
    assert found == {
        "in_right_case": 0.5,
        "in_largest_right_case": 0.3,
        "purity": 5 / 6,
        "cases": 3,
        "right_cases": 2,
        "false_cases_per_1000": 2.0,
    }


def test_without_a_case_the_shares_are_zero_and_purity_is_none() -> None:
    found = measure_cases(np.full(3, -1), np.ones(3, bool), 3, 5)
    assert (found["in_right_case"], found["purity"], found["cases"]) == (0.0, None, 0)


def test_a_model_is_trained_once_and_every_score_is_reported(tmp_path: Path) -> None:
    data, size, config = (
        made_dataset(),
        Size(training_images=180, images=200, epochs=2, seed=1),
        TriageConfig(),
    )
    told: list[str] = []
    model = trained_model(data, "lung", size, tmp_path, told.append)
    assert trained_model(data, "lung", size, tmp_path, told.append) == model
    assert told == ["training without lung"]
    outcomes = judge(data, "lung", model, size, config)
    assert [each.score for each in outcomes] == list(SCORES)
    assert all(
        0 <= each.in_largest_right_case <= each.in_right_case <= each.found <= 1
        for each in outcomes
    )
    report = "\n".join(tables(outcomes, size, config))
    assert report.count("| lung |") == len(SCORES)
    assert all(title in report for title in COLUMNS.values())
    assert (
        mean_and_spread([replace(outcomes[0], auroc=value) for value in (0.5, 0.7)], "auroc")
        == "0.600 ± 0.141"
    )
