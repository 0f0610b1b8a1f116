from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from federation.methods.fedavg import FedAvg
from federation.methods.icarl import (
    ClassMeans,
    ICaRL,
    class_means,
    collect_class_means,
    nearest_mean,
    nearest_mean_classifier,
    sums_by_class,
)
from federation.server import ServerState, grow_for_new_classes
from incremental.inference import features_of
from incremental.network import build_network
from physical.batch import Batch
from physical.transforms import to_tensor, to_unit
from twin.messages import Observation


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def binary(logit: float, target: float) -> float:
    return -(target * log(sigmoid(logit)) + (1 - target) * log(1 - sigmoid(logit)))


def test_the_loss_is_the_slow_loop_of_algorithm_3(scene: Any) -> None:
    logits, old, rows = (
        scene.logits().tolist(),
        scene.old_logits().tolist(),
        scene.batch.rows.tolist(),
    )
    new = sum(
        binary(o[c], float(c == y)) for o, y in zip(logits, rows, strict=True) for c in (3, 4)
    ) / (len(rows) * 5)
    known = sum(
        binary(o[c], sigmoid(t[c])) for o, t in zip(logits, old, strict=True) for c in (0, 1, 2)
    ) / (len(rows) * 5)
    terms = scene.terms(ICaRL(distillation_weight=0.5))
    assert terms["classification"].item() == pytest.approx(new, rel=1e-5)
    assert terms["semantic"].item() == pytest.approx(0.5 * known, rel=1e-5)


def test_the_two_terms_make_up_binary_cross_entropy_to_the_teacher_and_the_class(
    scene: Any,
) -> None:
    target = torch.cat(
        [torch.sigmoid(scene.old_logits()), functional.one_hot(scene.batch.rows, 5)[:, 3:].float()],
        1,
    )
    torch.testing.assert_close(
        scene.total(ICaRL()), functional.binary_cross_entropy_with_logits(scene.logits(), target)
    )


def test_the_softmax_form_is_the_slow_loop_too(scene: Any) -> None:
    logits, old, rows = (
        scene.logits().tolist(),
        scene.old_logits().tolist(),
        scene.batch.rows.tolist(),
    )

    def softmax(values: list[float]) -> list[float]:
        total = sum(exp(value) for value in values)
        return [exp(value) / total for value in values]

    fit = -sum(log(softmax(o)[y]) for o, y in zip(logits, rows, strict=True)) / len(rows)
    kept = 0.0
    for o, t in zip(logits, old, strict=True):
        p, q = softmax([value / 2 for value in t]), softmax([value / 2 for value in o[:3]])
        kept += sum(a * log(a / b) for a, b in zip(p, q, strict=True)) / len(rows)
    terms = scene.terms(ICaRL(head_loss="ce"))
    assert terms["classification"].item() == pytest.approx(fit, rel=1e-5)
    assert terms["semantic"].item() == pytest.approx(kept, rel=1e-4)


@pytest.mark.parametrize("head_loss", ["bce", "ce"])
def test_without_a_teacher_it_is_plain_cross_entropy(scene: Any, head_loss: Any) -> None:
    context = scene.without_teacher
    assert torch.equal(
        scene.total(ICaRL(head_loss=head_loss), context),
        scene.total(FedAvg(head_loss=head_loss), context),
    )


def test_in_the_first_task_it_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any]
) -> None:
    found, expected = play(ICaRL(), rounds=2), play(FedAvg(head_loss="bce", memory=True), rounds=2)
    assert same(found.server.weights, expected.server.weights)


def test_without_distillation_it_is_fedavg_in_every_task_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any]
) -> None:
    found, expected = (
        play(ICaRL(distillation_weight=0.0)),
        play(FedAvg(head_loss="bce", memory=True)),
    )
    assert same(found.server.weights, expected.server.weights)


def test_the_teacher_gets_no_gradient(scene: Any) -> None:
    scene.context.old_network.requires_grad_(True)
    scene.total(ICaRL()).backward()
    assert all(parameter.grad is None for parameter in scene.context.old_network.parameters())


def test_a_class_mean_is_the_mean_of_unit_features_of_its_images(
    scene: Any, tiny_batch: Batch
) -> None:
    pixels, rows = to_tensor(tiny_batch.images[[0, 1, 20, 21, 22]]), torch.tensor([4, 4, 0, 0, 0])
    context = replace(scene.context, images=lambda: (to_unit(pixels), rows))
    upload, _ = ICaRL(least_images=1).finish_local(scene.network, context)
    unit = functional.normalize(features_of(scene.network, pixels), dim=1)
    assert upload["class_counts"].tolist() == [3, 0, 0, 0, 2]
    torch.testing.assert_close(upload["class_means"][4], (unit[0] + unit[1]) / 2)
    torch.testing.assert_close(upload["class_means"][0], (unit[2] + unit[3] + unit[4]) / 3)
    assert not upload["class_means"][1:4].any()


def test_the_mean_of_too_few_images_stays_at_the_twin(scene: Any, tiny_batch: Batch) -> None:
    pixels, rows = to_tensor(tiny_batch.images[[0, 1, 20, 21, 22]]), torch.tensor([4, 4, 0, 0, 0])
    context = replace(scene.context, images=lambda: (to_unit(pixels), rows))
    upload, _ = ICaRL(least_images=3).finish_local(scene.network, context)
    assert upload["class_counts"].tolist() == [3, 0, 0, 0, 0]
    assert not upload["class_means"][4].any()


def test_nothing_but_weights_leaves_where_means_are_switched_off_or_the_twin_shows_no_images(
    scene: Any,
) -> None:
    assert ICaRL().finish_local(scene.network, replace(scene.context, images=None))[0] == {}
    shown = replace(scene.context, images=lambda: (scene.batch.images, scene.batch.rows))
    assert ICaRL(sends_class_means=False).finish_local(scene.network, shown)[0] == {}


def upload_of(classes: int, width: int, counts: list[int], value: float) -> dict[str, Tensor]:
    return {
        "class_means": torch.full((classes, width), value),
        "class_counts": torch.tensor(counts),
    }


def test_the_server_counts_each_twin_by_its_images_and_keeps_what_did_not_arrive(
    grown: ServerState,
) -> None:
    width = grown.weights["head.weight"].shape[1]
    first = collect_class_means(
        grown,
        [upload_of(5, width, [1, 0, 2, 0, 0], 0.2), upload_of(5, width, [3, 0, 0, 0, 0], 0.6)],
    )
    assert first.kept["class_means"][:, 0].tolist() == pytest.approx([0.5, 0, 0.2, 0, 0])
    second = collect_class_means(first, [upload_of(5, width, [0, 4, 1, 0, 0], 0.8)])
    assert second.kept["class_means"][:, 0].tolist() == pytest.approx([0.5, 0.8, 0.8, 0, 0])
    assert cast(Any, class_means(second)).known.tolist() == [True, True, True, False, False]
    assert class_means(grown) is None


def test_means_outlive_the_growth_of_the_head(grown: ServerState) -> None:
    width = grown.weights["head.weight"].shape[1]
    told = collect_class_means(grown, [upload_of(5, width, [1, 1, 1, 1, 1], 0.2)])
    larger, _ = grow_for_new_classes(
        replace(told, round=3), [Observation("north", 3, 1, True, ("spleen", "liver"))]
    )
    assert cast(Any, class_means(larger)).known.tolist() == [True] * 5 + [False] * 2
    again = collect_class_means(larger, [upload_of(7, width, [0, 0, 0, 0, 0, 2, 0], 0.7)])
    assert cast(Any, class_means(again)).known.tolist() == [True] * 6 + [False]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"class_means": torch.zeros(4, 8)},
        {"class_means": torch.zeros(5, 7)},
        {"class_counts": torch.ones(4, dtype=torch.int64)},
        {"class_counts": torch.ones(5)},
        {"class_counts": torch.tensor([1, 1, 1, 1, -1])},
    ],
)
def test_an_upload_that_is_none_is_left_out(grown: ServerState, wrong: dict[str, Any]) -> None:
    width = grown.weights["head.weight"].shape[1]
    good = upload_of(5, width, [1, 1, 1, 1, 1], 0.5)
    assert collect_class_means(grown, [{**good, **wrong} if wrong else {}]).kept == {}
    told = collect_class_means(grown, [{**good, **wrong} if wrong else {}, good])
    assert bool((told.kept["class_means"] == 0.5).all())


def test_the_nearest_mean_is_that_of_a_slow_loop_and_never_an_unknown_class() -> None:
    generator = torch.Generator().manual_seed(1)
    features, means = (
        torch.randn(20, 6, generator=generator),
        functional.normalize(torch.randn(4, 6, generator=generator), dim=1),
    )
    known = torch.tensor([True, False, True, True])
    found = nearest_mean(features, ClassMeans(means, known)).tolist()
    for feature, answer in zip(features.numpy(), found, strict=True):
        unit = feature / np.linalg.norm(feature)
        distances = [
            float(np.sum((unit - mean) ** 2)) if sees else np.inf
            for mean, sees in zip(means.numpy(), known, strict=True)
        ]
        assert answer == int(np.argmin(distances))


def test_images_of_classes_that_look_apart_are_named_by_the_nearest_mean(
    grown: ServerState, tiny_batch: Batch
) -> None:
    pixels = to_tensor(tiny_batch.images[:100])
    rows = torch.arange(5).repeat_interleave(20)
    features = features_of(build_network(grown.network, grown.weights), pixels)
    sums, counts = sums_by_class(features, rows, 5)
    told = collect_class_means(
        grown, [{"class_means": sums / counts[:, None], "class_counts": counts}]
    )
    found = cast(Any, nearest_mean_classifier(told))(pixels)
    assert nearest_mean_classifier(grown) is None
    assert found.shape == (100,)
    assert float((found == rows).float().mean()) > 0.6  # an untrained network of four channels


def test_repeatable_over_growth_of_the_head_and_nothing_undeclared_leaves(
    play: Callable[..., Any], same: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    first, second = (play(ICaRL(least_images=2)) for _ in range(2))
    assert len(first.server.task_begins) > 1
    assert same(first.server.weights, second.server.weights)
    assert same(first.server.kept, second.server.kept)
    means = class_means(first.server)
    assert means is not None
    assert means.known.any() and len(means.known) == len(first.server.class_names)
    assert any("semantic" in update.metrics for update in first.updates)
    assert_wall(first, {"class_means", "class_counts"})
    assert bool(ICaRL.uploads)


@pytest.mark.parametrize(
    "wrong", [{"distillation_weight": -1.0}, {"temperature": 0.0}, {"least_images": 0}]
)
def test_a_value_out_of_range_says_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        ICaRL(**wrong)
