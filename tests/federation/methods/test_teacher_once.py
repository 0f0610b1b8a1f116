from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from federation.methods.bic import BiC
from federation.methods.fedka import FedKA
from federation.methods.fedntd import FedNTD
from federation.methods.flwf2t import FLwF2T
from federation.methods.glfc import GLFC
from federation.methods.icarl import ICaRL
from federation.methods.lga import LGA
from federation.methods.lwm import LwM
from incremental.network import IncrementalNetwork, Outputs, build_network, freeze, weights_of
from incremental.weight_tensors import labelled
from physical.transforms import AugmentationConfig
from twin.batches import CachedImages, TrainingBatch
from twin.local_training import TrainingConfig, train_locally
from twin.objective import LocalContext

STILL = AugmentationConfig(crop_padding_pixels=0, brightness=0.0)
ONE_TEACHER = [
    FedKA(),
    FedKA(attention_weight=0.0),
    FedKA(attention_layer="middle"),
    GLFC(),
    LGA(),
    ICaRL(),
    LwM(),
    BiC(),
    FedNTD(),
]
METHODS = [*((method, 1) for method in ONE_TEACHER), (FLwF2T(), 2)]


@dataclass(frozen=True)
class EachByItself:
    """A method whose batches are not among others, so that its teacher looks at every step."""

    method: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> dict[str, Tensor]:
        return self.method.local_loss(network, replace(batch, source=None), context)


def train(scene: Any, method: Any, augmentation: AugmentationConfig = STILL) -> tuple[Any, ...]:
    """Train three epochs; return weights, losses and how many images teachers were shown."""
    pixels = torch.randint(
        0, 256, (22, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    rows = torch.arange(22) % 5
    kept = {
        **labelled("previous", weights_of(scene.network)),
        "finished_tasks": torch.tensor(2),
    }  # FLwF-2T's own teacher
    context = replace(scene.context, kept=kept, extras={"taught_rows": torch.tensor(5)})
    network = build_network(scene.network.config, scene.context.global_weights)
    config = TrainingConfig(epochs=3, batch_size=8, learning_rate=0.01, augmentation=augmentation)
    with images_that_teachers_see(network) as looked:
        result = train_locally(
            network,
            pixels,
            rows,
            method,
            context,
            config,
            [0.01] * 3,
            torch.Generator().manual_seed(2),
        )
    return weights_of(network), result.metrics, looked


@contextmanager
def images_that_teachers_see(student: IncrementalNetwork) -> Iterator[list[Any]]:
    """Count the images shown to any network but the student."""
    looked = []

    def look(module: Any, inputs: tuple[Tensor, ...], outputs: Outputs | Tensor) -> None:
        if isinstance(module, IncrementalNetwork) and module is not student:
            looked.append(len(inputs[0]))

    handle = register_module_forward_hook(look)
    try:
        yield looked
    finally:
        handle.remove()


@pytest.mark.parametrize(("method", "teachers"), METHODS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("augmentation", [STILL, AugmentationConfig()], ids=["still", "varied"])
def test_a_teacher_that_looks_ahead_teaches_what_one_teaches_that_looks_at_every_step(
    scene: Any, method: Any, teachers: int, augmentation: AugmentationConfig
) -> None:
    ahead, told_ahead, looks_ahead = train(scene, method, augmentation)
    always, told_always, looks_always = train(scene, EachByItself(method), augmentation)
    assert looks_ahead == [22] * teachers * (1 if augmentation is STILL else 3)
    assert sorted(looks_always) == sorted([8, 8, 6] * 3 * teachers)
    assert all(
        torch.allclose(ahead[name].double(), always[name].double(), atol=1e-5) for name in ahead
    )
    assert told_ahead == pytest.approx(told_always, rel=1e-4)


def test_teachers_of_two_names_are_two_and_one_of_the_same_name_is_made_once(scene: Any) -> None:
    context = scene.context
    batch = replace(
        scene.batch, source=CachedImages(lambda: (scene.batch.images, scene.batch.rows))
    )
    made = []

    def teacher(weights: dict[str, Tensor]) -> IncrementalNetwork:
        made.append(weights)
        return freeze(build_network(scene.network.config, weights))

    own, other = (
        weights_of(scene.network),
        {name: value * 2 for name, value in weights_of(scene.network).items()},
    )
    said = [
        context.logits_of(name, lambda weights=weights: teacher(weights), batch)
        for name, weights in (("own", own), ("other", other))
    ]
    again = context.logits_of("own", lambda: teacher(other), batch)
    assert len(made) == 2
    assert torch.equal(again, said[0]) and not torch.equal(*said)
    assert not again.requires_grad
