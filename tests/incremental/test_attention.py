import pytest
import torch

from incremental.attention import AttentionLayer, attention
from incremental.head import grow_head
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    freeze,
    initial_weights,
)

CLASSES = 7
LAYERS: tuple[AttentionLayer, ...] = ("last", "middle")


def network_of(seed: int) -> IncrementalNetwork:
    config = NetworkConfig(backbone="resnet10", width=8)
    weights = grow_head(initial_weights(config, seed), CLASSES, torch.Generator().manual_seed(seed))
    network = build_network(config, weights)
    with torch.no_grad():
        network.train()(
            images_of(16)
        )  # statistics of batch normalisation that are not those of a newborn
    return network.eval()


def images_of(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def network() -> IncrementalNetwork:
    return network_of(1)


ROWS = torch.tensor([0, 6, 3, 3, 1])


def grad_cam_of_one(
    network: IncrementalNetwork, image: torch.Tensor, row: int, layer: AttentionLayer
) -> torch.Tensor:
    """Equations 1 and 2 of Grad-CAM, for one image and one class, by autograd and two loops."""
    with torch.enable_grad():
        middle = network.backbone.lower(network.normalise(image[None])).detach().requires_grad_()
        maps = (
            middle
            if layer == "middle"
            else network.backbone.upper(middle).detach().requires_grad_()
        )
        last = network.backbone.upper(maps) if layer == "middle" else maps
        score = network.head(last.mean((2, 3)))[0, row]
        (gradient,) = torch.autograd.grad(score, maps)
    total = torch.zeros(maps.shape[2:])
    for channel in range(maps.shape[1]):
        alpha = float(gradient[0, channel].sum()) / gradient[0, channel].numel()
        total = total + alpha * maps[0, channel].detach()
    return total.clamp_min(0)


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_is_grad_cam_of_each_image_alone(
    network: IncrementalNetwork, layer: AttentionLayer
) -> None:
    maps = attention(network, network(images_of()), ROWS, layer)
    expected = [
        grad_cam_of_one(network, image, int(row), layer)
        for image, row in zip(images_of(), ROWS, strict=True)
    ]
    torch.testing.assert_close(maps, torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert float(maps.detach().max()) > 1e-3


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_agrees_with_the_package_grad_cam(
    network: IncrementalNetwork, layer: AttentionLayer
) -> None:
    package = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    scale = pytest.importorskip("pytorch_grad_cam.utils.image").scale_cam_image

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(images).logits
            return logits

    stage = network.backbone.upper_stage if layer == "last" else network.backbone.lower_stages
    for rows in (ROWS, (ROWS + 2) % CLASSES):
        with package.GradCAM(model=Logits(), target_layers=[stage]) as cam:
            expected = cam(images_of(), [targets.ClassifierOutputTarget(int(row)) for row in rows])
        ours = attention(network, network(images_of()), rows, layer).detach().numpy()
        scaled = scale(
            scale(ours, (32, 32))
        )  # the package scales each layer, and their mean once more
        assert abs(scaled - expected).max() < 1e-5
        assert expected.max() > 0.9


@pytest.mark.parametrize("layer", LAYERS)
def test_gradient_reaches_the_student(network: IncrementalNetwork, layer: AttentionLayer) -> None:
    network.train()
    loss = attention(network, network(images_of()), ROWS, layer).square().sum()
    loss.backward()
    reached = network.get_parameter("backbone.lower_stages.0.0.conv1.weight").grad
    assert reached is not None
    assert float(reached.abs().max()) > 0
    assert bool(torch.isfinite(reached).all())


def test_the_closed_form_also_moves_the_row_of_the_class_alone(network: IncrementalNetwork) -> None:
    loss = attention(network, network(images_of()), ROWS, "last").sum()
    loss.backward()
    assert network.head.weight.grad is not None
    moved = network.head.weight.grad.abs().sum(1) > 0
    assert not moved[[2, 4, 5]].any()
    assert moved[[0, 6, 3, 1]].any()


def test_the_channel_weights_of_the_middle_layer_are_constants(network: IncrementalNetwork) -> None:
    loss = attention(network, network(images_of()), ROWS, "middle").sum()
    loss.backward()
    assert network.head.weight.grad is None
    assert network.get_parameter("backbone.upper_stage.0.conv1.weight").grad is None


@pytest.mark.parametrize("layer", LAYERS)
def test_a_teacher_without_a_graph_attends_as_one_with(
    network: IncrementalNetwork, layer: AttentionLayer
) -> None:
    with_graph = attention(network, network(images_of()), ROWS, layer).detach()
    teacher = freeze(network)
    with torch.no_grad():
        outputs = teacher(images_of())
        without_graph = attention(teacher, outputs, ROWS, layer)
    torch.testing.assert_close(without_graph, with_graph)
    torch.testing.assert_close(attention(teacher, outputs, ROWS, layer), with_graph)
    assert not without_graph.requires_grad
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("layer", LAYERS)
def test_computing_attention_leaves_the_students_graph_whole(
    network: IncrementalNetwork, layer: AttentionLayer
) -> None:
    outputs = network(images_of())
    maps = attention(network, outputs, ROWS, layer)
    (maps.sum() + outputs.logits.sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_is_never_negative_and_differs_by_class(
    network: IncrementalNetwork, layer: AttentionLayer
) -> None:
    outputs = network(images_of())
    maps = torch.stack(
        [
            attention(network, outputs, torch.full((5,), row), layer).detach()
            for row in range(CLASSES)
        ]
    )
    assert float(maps.min()) >= 0
    assert float((maps[0] - maps[1]).abs().max()) > 0
    assert maps.shape == (CLASSES, 5, *((4, 4) if layer == "last" else (8, 8)))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_the_map_of_an_image_does_not_depend_on_the_classes_of_others(
    network: IncrementalNetwork, layer: AttentionLayer, mode: str
) -> None:
    outputs = network.train(mode == "training")(images_of())
    others = torch.cat([ROWS[:1], (ROWS[1:] + 1) % CLASSES])
    maps, again = (attention(network, outputs, rows, layer).detach() for rows in (ROWS, others))
    torch.testing.assert_close(maps[0], again[0], rtol=1e-4, atol=1e-6)
