from dataclasses import replace

import pytest
import torch

from federation.methods.bic import BiC
from federation.methods.fedka import FedKA
from federation.methods.glfc import GLFC
from federation.methods.icarl import ICaRL
from federation.methods.lga import LGA
from federation.methods.lwm import LwM
from incremental.network import build_network, weights_of
from physical.transforms import AugmentationConfig, to_unit
from twin.local_training import TrainingConfig, train_locally

STILL = AugmentationConfig(crop_padding_pixels=0, brightness=0.0)
METHODS = [FedKA(), FedKA(attention_weight=0.0), FedKA(attention_layer="middle"), GLFC(), LGA(), ICaRL(), LwM(), BiC()]


def train(scene, method, shows_images, augmentation=STILL):
    """Train for three epochs; return the weights, the losses, and how many images the teacher looked at."""
    pixels = torch.randint(0, 256, (22, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(22) % 5
    looked = []
    teacher = scene.context.old_network
    teacher.register_forward_hook(lambda module, inputs, outputs: looked.append(len(inputs[0])))
    images = (lambda: (to_unit(pixels), rows)) if shows_images else None
    context = replace(scene.context, images=images)
    network = build_network(scene.network.config, scene.context.global_weights)
    config = TrainingConfig(epochs=3, batch_size=8, learning_rate=0.01, augmentation=augmentation)
    result = train_locally(network, pixels, rows, method, context, config, [0.01] * 3, torch.Generator().manual_seed(2))
    return weights_of(network), result.metrics, sum(looked)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_teacher_that_looks_once_teaches_what_one_teaches_that_looks_at_every_step(scene, method):
    once, told_once, looks_once = train(scene, method, shows_images=True)
    always, told_always, looks_always = train(scene, method, shows_images=False)
    assert (looks_once, looks_always) == (22, 66)
    assert all(torch.allclose(once[name].double(), always[name].double(), atol=1e-5) for name in once)
    assert told_once == pytest.approx(told_always, rel=1e-4)


def test_a_teacher_of_varied_images_looks_at_each_of_them(scene):
    _, _, looks = train(scene, FedKA(), shows_images=True, augmentation=AugmentationConfig())
    assert looks == 66
