from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from federation.methods.fedavg import FedAvg
from federation.methods.podnet import PODNet
from twin.losses import feature_distillation, spatial_distillation


def profile(maps: NDArray[Any]) -> NDArray[Any]:
    """Sums of squares over the height and over the width of each channel, as one unit vector."""
    channels, height, width = maps.shape
    values = [
        sum(maps[c, h, w] ** 2 for h in range(height))
        for c in range(channels)
        for w in range(width)
    ]
    values += [
        sum(maps[c, h, w] ** 2 for w in range(width))
        for c in range(channels)
        for h in range(height)
    ]
    return np.array(values) / sqrt(sum(value**2 for value in values))


def test_the_loss_is_the_slow_loop_of_the_equations(scene: Any) -> None:
    outputs, old = scene.network(scene.batch.images), scene.context.old_network(scene.batch.images)
    spatial = 0.0
    for mine, teachers in ((outputs.middle_maps, old.middle_maps), (outputs.maps, old.maps)):
        pairs = list(
            zip(mine.detach().double().numpy(), teachers.detach().double().numpy(), strict=True)
        )
        spatial += (  # type: ignore[assignment]  # changes its type
            sum(np.linalg.norm(profile(one) - profile(other)) for one, other in pairs)
            / len(pairs)
            / 2
        )
    flat = 0.0
    for one, other in zip(
        outputs.features.detach().double().numpy(),
        old.features.detach().double().numpy(),
        strict=True,
    ):
        flat += (1 - one @ other / (np.linalg.norm(one) * np.linalg.norm(other))) / len(
            scene.batch.rows
        )
    terms = scene.terms(PODNet(spatial_weight=4.0, flat_weight=0.5))
    assert terms["spatial"].item() == pytest.approx(4 * sqrt(5 / 2) * spatial, rel=1e-4)
    assert terms["flat"].item() == pytest.approx(0.5 * sqrt(5 / 2) * flat, rel=1e-4)
    assert torch.equal(terms["classification"], scene.total(FedAvg()))


def test_distillation_grows_with_the_share_of_old_classes(scene: Any) -> None:
    """Two new classes of five; a teacher that knew four would leave one."""
    later = replace(scene.context, old_rows=4)
    ratio = scene.terms(PODNet(), later)["flat"] / scene.terms(PODNet())["flat"]
    assert ratio.item() == pytest.approx(sqrt(5) / sqrt(5 / 2))


def test_equal_models_have_no_distance_and_a_finite_gradient() -> None:
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    features = torch.rand(2, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    total = spatial_distillation(maps, maps.detach()) + feature_distillation(
        features, features.detach()
    )
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert bool(torch.isfinite(cast(Any, maps.grad)).all()) and bool(
        torch.isfinite(cast(Any, features.grad)).all()
    )


def test_maps_of_zeros_are_finite() -> None:
    maps = torch.zeros(2, 3, 4, 4).requires_grad_()
    loss = spatial_distillation(
        maps, torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    )
    loss.backward()
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(cast(Any, maps.grad)).all())


def test_the_teacher_gets_no_gradient(scene: Any) -> None:
    scene.context.old_network.requires_grad_(True)
    scene.total(PODNet()).backward()
    assert all(parameter.grad is None for parameter in scene.context.old_network.parameters())
    assert any(bool(parameter.grad.any()) for parameter in scene.network.backbone.parameters())


def test_without_distillation_it_is_fedavg_with_memory_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any]
) -> None:
    found, expected = play(PODNet(spatial_weight=0.0, flat_weight=0.0)), play(FedAvg(memory=True))
    assert same(found.server.weights, expected.server.weights)


def test_in_the_first_task_it_is_fedavg_with_memory_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any]
) -> None:
    assert same(
        play(PODNet(), rounds=2).server.weights, play(FedAvg(memory=True), rounds=2).server.weights
    )


def test_repeatable_over_growth_of_the_head_and_nothing_but_weights_leaves(
    play: Callable[..., Any], same: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    first, second = (play(PODNet()) for _ in range(2))
    assert len(first.server.task_begins) > 1
    assert same(first.server.weights, second.server.weights)
    assert any({"spatial", "flat"} <= update.metrics.keys() for update in first.updates)
    assert_wall(first, set())
    assert not PODNet.uploads


@pytest.mark.parametrize("wrong", [{"spatial_weight": -1.0}, {"flat_weight": -1.0}])
def test_a_value_out_of_range_says_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed: 0 or more"):
        PODNet(**wrong)
