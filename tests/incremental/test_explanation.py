import subprocess
import sys

import numpy as np
import pytest
import torch

from incremental.attention import attention
from incremental.explanation import explain
from incremental.head import grow_head
from incremental.network import IncrementalNetwork, NetworkConfig, build_network, initial_weights

ROWS = [0, 1, 2, 3, 1]


@pytest.fixture(params=["resnet10", "lenet"])
def network(request: pytest.FixtureRequest) -> IncrementalNetwork:
    config = NetworkConfig(backbone=request.param, width=8, image_size=16)
    made = build_network(
        config, grow_head(initial_weights(config, 1), 4, torch.Generator().manual_seed(1))
    )
    with torch.no_grad():
        made.train()(
            images_of(16)
        )  # statistics of batch normalisation that are not those of a newborn
    return made.eval()


def images_of(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def test_an_explanation_is_what_the_package_shows(network: IncrementalNetwork) -> None:
    package = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(images).logits
            return logits

    last = (
        network.backbone.upper_stage
        if hasattr(network.backbone, "upper_stage")
        else network.backbone.second
    )
    with package.GradCAM(model=Logits(), target_layers=[last]) as cam:
        expected = cam(images_of(), [targets.ClassifierOutputTarget(row) for row in ROWS])
    shown = explain(network, images_of(), ROWS)
    assert np.array_equal(shown, expected)
    assert shown.shape == (5, 16, 16)
    assert shown.dtype == np.float32
    assert 0 <= shown.min() < 0.1
    assert 0.9 < shown.max() <= 1


def test_an_explanation_is_the_closed_form_scaled_to_the_image(network: IncrementalNetwork) -> None:
    scale = pytest.importorskip("pytorch_grad_cam.utils.image").scale_cam_image
    raw = attention(network, network(images_of()), torch.tensor(ROWS)).detach().numpy()
    expected = scale(
        scale(raw, (16, 16))
    )  # the package scales each layer, and their mean once more
    assert abs(explain(network, images_of(), ROWS) - expected).max() < 1e-5


def test_without_evidence_for_a_class_the_explanation_is_empty(
    network: IncrementalNetwork,
) -> None:
    with torch.no_grad():
        network.head.weight[1] = -network.head.weight[
            1
        ].abs()  # features are never negative: all speaks against row 1
    against, pro = explain(network, images_of(2), [1, 2])
    assert not against.any()
    assert pro.any()


def test_explaining_leaves_the_network_as_it_was(network: IncrementalNetwork) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    explain(network.train(), images_of(), ROWS)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_the_package_is_loaded_only_when_a_map_is_asked_for() -> None:
    code = "import sys, incremental.explanation; print('pytorch_grad_cam' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )
