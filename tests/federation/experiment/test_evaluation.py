import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from federation.experiment.evaluation import Evaluator
from incremental.head import grow_head
from incremental.network import NetworkConfig, build_network, initial_weights
from physical.batch import Batch

NETWORK = NetworkConfig(backbone="lenet", width=4, image_size=16, channels=1)
TASKS = (("c", "a"), ("b",))


@pytest.fixture
def images() -> Batch:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 90)  # "d" belongs to no task
    return Batch(
        rng.integers(0, 256, (90, 16, 16, 1), dtype=np.uint8), labels, ("a", "b", "c", "d")
    )


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return grow_head(initial_weights(NETWORK, 1), 3, torch.Generator().manual_seed(1))


def expected(
    images: Batch, weights: dict[str, Tensor], class_names: tuple[str, ...], seen: tuple[str, ...]
) -> tuple[list[str], ...]:
    chosen = np.isin(images.labels, [images.vocabulary.index(name) for name in seen])
    network = build_network(NETWORK, weights).eval()
    with torch.no_grad():
        rows = network(
            torch.from_numpy(images.images[chosen]).permute(0, 3, 1, 2) / 255
        ).logits.argmax(1)
    return [images.vocabulary[label] for label in images.labels[chosen]], [
        class_names[row] for row in rows
    ]


@pytest.mark.parametrize("class_names", [("a", "b", "c"), ("b", "c", "a")])
def test_accuracy_and_macro_f1_equal_scikit_learns_whatever_the_order_of_rows(
    images: Batch, weights: dict[str, Tensor], class_names: tuple[str, ...]
) -> None:
    evaluation = Evaluator(images, TASKS, NETWORK).evaluate(weights, class_names, 1)
    truth, named = expected(images, weights, class_names, ("a", "b", "c"))
    assert evaluation.accuracy == pytest.approx(accuracy_score(truth, named))
    assert evaluation.macro_f1 == pytest.approx(
        f1_score(truth, named, average="macro", zero_division=0)
    )


def test_only_classes_of_the_tasks_so_far_are_measured(
    images: Batch, weights: dict[str, Tensor]
) -> None:
    evaluator = Evaluator(images, TASKS, NETWORK)
    first = evaluator.evaluate(weights, ("a", "b", "c"), 0)
    truth, named = expected(images, weights, ("a", "b", "c"), ("a", "c"))
    assert first.accuracy == pytest.approx(accuracy_score(truth, named))
    assert first.confusion.sum() == evaluator.num_images()[0] and len(first.by_task) == 1


def test_a_class_that_the_model_does_not_know_counts_as_wrong(
    images: Batch, weights: dict[str, Tensor]
) -> None:
    without_b = {
        **weights,
        "head.weight": weights["head.weight"][:2],
        "head.bias": weights["head.bias"][:2],
    }
    evaluation = Evaluator(images, TASKS, NETWORK).evaluate(without_b, ("a", "c"), 1)
    assert evaluation.by_task[1] == 0


def test_a_model_without_classes_names_nothing(images: Batch) -> None:
    evaluation = Evaluator(images, TASKS, NETWORK).evaluate(initial_weights(NETWORK, 1), (), 1)
    assert (
        evaluation.accuracy == 0 and evaluation.confusion[:, -1].sum() == evaluation.confusion.sum()
    )


def test_a_sample_is_spread_over_all_classes_and_the_whole_is_the_whole(
    images: Batch, weights: dict[str, Tensor]
) -> None:
    evaluator = Evaluator(images, TASKS, NETWORK)
    whole, sample = (evaluator.evaluate(weights, ("a", "b", "c"), 1, most) for most in (None, 30))
    assert sample.confusion.sum() == 30
    share = whole.confusion.sum(1) / whole.confusion.sum()
    assert np.abs(sample.confusion.sum(1) / 30 - share).max() < 0.06
    assert (
        evaluator.evaluate(weights, ("a", "b", "c"), 1, 10_000).confusion == whole.confusion
    ).all()


def test_attention_examples_show_each_class_that_the_teacher_knows(
    images: Batch, weights: dict[str, Tensor]
) -> None:
    examples = Evaluator(images, TASKS, NETWORK).attention_examples(
        weights, weights, ("a", "c", "b"), ("a", "c", "b")
    )
    assert examples["class_names"].tolist() == ["a", "c", "b"]
    assert examples["images"].shape == (3, 16, 16, 1) and examples["images"].dtype == np.uint8
    np.testing.assert_array_equal(examples["teacher"], examples["student"])
