import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from federation.methods import METHODS
from federation.methods.bic import BiC
from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA
from federation.methods.fedntd import FedNTD
from federation.methods.fedprox import FedProx
from federation.methods.flwf2t import FLwF2T
from federation.methods.glfc import GLFC
from federation.methods.icarl import ICaRL
from federation.methods.lga import LGA
from federation.methods.lwm import LwM
from federation.methods.podnet import PODNet
from incremental.network import (
    IncrementalNetwork,
    build_network,
    freeze,
    initial_weights,
    weights_of,
)
from incremental.weight_tensors import labelled
from twin.batches import TrainingBatch
from twin.objective import LocalContext
from twin.privacy.private_training import per_image_gradients

CLAIMS = [
    FedAvg(),
    FedAvg(head_loss="bce"),
    FedProx(mu=0.0),
    FedNTD(),
    FLwF2T(),
    BiC(),
    ICaRL(),
    ICaRL(head_loss="ce"),
    PODNet(),
    LwM(attention_weight=0.0),
    GLFC(weighted=False),
    LGA(weighting="none"),
    FedKA(weighting="none", attention_weight=0.0),
    FedKA(classification_weighted=False, semantic_weight=0.0, attention_weight=0.0),
]
DENIES = [
    FedProx(),
    LwM(),
    GLFC(),
    LGA(),
    FedKA(),
    FedKA(weighting="none"),
    FedKA(attention_weight=0.0),
]


@pytest.fixture
def setup(scene: Any) -> tuple[Any, ...]:
    """The scene on a network that does not mix images, with teachers for every method."""
    config = replace(scene.network.config, norm="group")
    names = initial_weights(config, 1).keys()
    weights = {name: value for name, value in scene.context.global_weights.items() if name in names}
    old = freeze(build_network(config, {**initial_weights(config, 4), **rows_of(scene)}))
    kept = {**labelled("previous", weights), "finished_tasks": torch.tensor(2)}
    context = replace(
        scene.context,
        global_weights=weights,
        old_network=old,
        kept=kept,
        extras={"taught_rows": torch.tensor(5)},
    )
    network = build_network(config, {name: 1.1 * value for name, value in weights.items()}).train()
    return network, scene.batch, context


def rows_of(scene: Any) -> dict[str, Tensor]:
    weights = weights_of(scene.context.old_network)
    return {name: weights[name] for name in ("head.weight", "head.bias")}


def total(
    method: Any, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
) -> Tensor:
    return torch.stack(list(method.local_loss(network, batch, context).values())).sum()


@pytest.mark.parametrize("method", CLAIMS, ids=repr)
def test_a_method_that_says_so_has_a_loss_whose_gradient_is_the_mean_of_its_images(
    setup: tuple[Any, ...], method: Any
) -> None:
    network, batch, context = setup
    assert method.per_sample_loss
    parameters = list(network.parameters())
    whole = torch.autograd.grad(total(method, network, batch, context), parameters)
    singles = [
        TrainingBatch(batch.images[place][None], batch.rows[place][None])
        for place in range(len(batch.rows))
    ]
    each = [
        torch.autograd.grad(total(method, network, single, context), parameters)
        for single in singles
    ]
    assert any(float((one[0] - other[0]).norm()) > 1e-4 for one, other in pairwise(each))
    for index, gradient in enumerate(whole):
        torch.testing.assert_close(
            gradient, torch.stack([single[index] for single in each]).mean(0), rtol=1e-3, atol=1e-5
        )
    pytest.importorskip("opacus")
    with per_image_gradients(network), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        total(method, network, batch, context).backward()
        for index, parameter in enumerate(parameters):
            torch.testing.assert_close(
                parameter.grad_sample,
                torch.stack([single[index] for single in each]),
                rtol=1e-3,
                atol=1e-5,
            )


def gradients_by_opacus(
    method: Any, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
) -> list[Tensor]:
    with per_image_gradients(network), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        total(method, network, batch, context).backward()
        return [parameter.grad_sample for parameter in network.parameters()]  # type: ignore[attr-defined]  # looked up where it is used


@pytest.mark.parametrize("method", DENIES, ids=repr)
def test_a_method_that_does_not_say_so_has_a_loss_that_would_be_clipped_wrongly(
    setup: tuple[Any, ...], method: Any
) -> None:
    pytest.importorskip("opacus")
    network, batch, context = setup
    assert not method.per_sample_loss
    parameters = list(network.parameters())
    singles = [
        TrainingBatch(batch.images[place][None], batch.rows[place][None])
        for place in range(len(batch.rows))
    ]
    each = [
        torch.autograd.grad(total(method, network, single, context), parameters)
        for single in singles
    ]
    found = gradients_by_opacus(method, network, batch, context)
    wanted = [torch.stack([single[index] for single in each]) for index in range(len(parameters))]
    assert any(
        float((one - other).norm()) > 1e-3 * float(other.norm())
        for one, other in zip(found, wanted, strict=True)
    )


def test_every_method_is_among_those_that_were_looked_at() -> None:
    looked = {type(method) for method in (*CLAIMS, *DENIES)}
    unlooked = [kind for kind in METHODS.values() if kind not in looked]
    assert not any(kind().per_sample_loss for kind in unlooked)
    assert {kind.__name__ for kind in unlooked} == {
        "SCAFFOLD",
        "FedCurv",
        "Analytic",
    }  # upload, and move weights by more than images
