"""The plain reference computes the same losses, features and prototypes as ours."""

import numpy as np
import pytest
import torch
from torch import Tensor

from federation.methods.fedka import FedKA
from incremental.head import grow_head
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    freeze,
    initial_weights,
    weights_of,
)
from twin.batches import TrainingBatch
from twin.memory import herd
from twin.objective import LocalContext

# pytorch-grad-cam imports plotting libraries whose deprecation warnings must not fail tests.
pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("pytorch_grad_cam")
pytest.importorskip("torchvision")

from benchmarks.reference import Habits, PlainLoss, PlainNetwork, PlainTask, transform_of  # noqa: E402
from benchmarks.reference_round import PlainRules, Search, average, herd_plainly, invert_plainly  # noqa: E402

GROUPS = ((0, 1, 2), (3, 4, 5))
NETWORK = NetworkConfig(backbone="resnet10", width=4, image_size=16)
EVERY_HABIT = [
    Habits(),
    *(Habits(**{name: False}) for name in ("teacher_graph", "library_maps")),
    Habits(True, False, False, True),
]


def networks() -> tuple[IncrementalNetwork, IncrementalNetwork]:
    generator = torch.Generator().manual_seed(3)
    old = grow_head(initial_weights(NETWORK, 1), 3, generator)
    teacher = build_network(NETWORK, old)
    with torch.no_grad():
        teacher.train()(
            torch.rand(32, 3, 16, 16, generator=generator)
        )  # statistics of batch normalisation that are not a newborn's
        for value in teacher.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return build_network(NETWORK, grow_head(old, 3, generator)), freeze(teacher)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(12, 3, 16, 16, generator=generator), torch.tensor([0, 1, 2, 3, 4, 5] * 2)


def ours(
    student: IncrementalNetwork,
    teacher: IncrementalNetwork | None,
    groups: tuple[tuple[int, ...], ...] = GROUPS,
) -> dict[str, Tensor]:
    images, rows = batch()
    context = LocalContext(
        num_rows=6,
        groups=groups,
        global_weights=weights_of(student),
        old_network=teacher,
        old_rows=3,
    )
    return FedKA().local_loss(student.train(), TrainingBatch(images, rows), context)


def plain(
    student: IncrementalNetwork,
    teacher: IncrementalNetwork | None,
    habits: Habits,
    groups: tuple[tuple[int, ...], ...] = GROUPS,
) -> dict[str, Tensor]:
    images, rows = batch()
    old = None
    if teacher is not None:
        old = PlainNetwork(teacher.requires_grad_(True))
    loss = PlainLoss(PlainNetwork(student.train()), old, PlainTask(groups), habits)
    return loss(
        student.normalise(images), rows
    )  # hooks stay: the package's way to remove them cuts the graph


@pytest.mark.parametrize("habits", EVERY_HABIT)
def test_the_plain_loss_has_the_terms_of_ours(habits: Habits) -> None:
    student, teacher = networks()
    wanted = ours(student, teacher)
    found = plain(student, teacher, habits)
    assert found.keys() == wanted.keys() == {"classification", "semantic", "attention"}
    for name, value in wanted.items():
        assert float(value.detach()) > 0
        assert float(found[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4), name


@pytest.mark.parametrize("habits", EVERY_HABIT)
def test_the_plain_gradient_of_the_backbone_is_ours(habits: Habits) -> None:
    gradients = []
    for side in ("ours", "plain"):
        student, teacher = networks()
        terms = ours(student, teacher) if side == "ours" else plain(student, teacher, habits)
        student.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        gradients.append([value.grad for value in student.backbone.parameters()])
    for wanted, found in zip(*gradients, strict=True):
        assert wanted is not None
        assert found is not None
        assert float((wanted - found).norm()) <= 1e-3 * float(wanted.norm()) + 1e-6


def test_without_a_teacher_only_classification_is_left_on_both_sides() -> None:
    student, _ = networks()
    groups = ((0, 1, 2, 3, 4, 5),)
    wanted, found = ours(student, None, groups), plain(student, None, Habits(), groups)
    assert found.keys() == wanted.keys() == {"classification"}
    assert float(found["classification"].detach()) == pytest.approx(
        float(wanted["classification"].detach()), rel=1e-5
    )


def test_the_plain_transform_gives_what_the_network_gives_its_backbone() -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (16, 16), np.uint8)
    image = transform_of(NETWORK, 16, training=False)(Image.fromarray(pixels).convert("RGB"))
    student, _ = networks()
    wanted = student.normalise(torch.from_numpy(pixels)[None, None].float() / 255)[0]
    torch.testing.assert_close(image, wanted, rtol=1e-5, atol=1e-6)


def test_plain_herding_chooses_what_ours_chooses() -> None:
    features = torch.nn.functional.normalize(
        torch.randn(40, 6, generator=torch.Generator().manual_seed(2)).abs(), dim=1
    )
    assert herd_plainly(features.numpy(), 12) == herd(features, 12).tolist()


def test_the_plain_average_is_the_mean_and_leaves_its_parts_alone() -> None:
    parts = [
        {"a": torch.tensor([1.0, 2.0]), "n": torch.tensor(2)},
        {"a": torch.tensor([3.0, 6.0]), "n": torch.tensor(4)},
    ]
    mean = average(parts)
    assert torch.equal(mean["a"], torch.tensor([2.0, 4.0]))
    assert mean["n"].dtype == torch.int64
    assert torch.equal(parts[0]["a"], torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(("search", "steps"), [("adam", 60), ("lbfgs", 6)])
def test_a_plain_inversion_comes_nearer_to_the_image(search: Search, steps: int) -> None:
    from incremental.reconstruction import GradientEncoder

    encoder = GradientEncoder((1, 16, 16), 4, 2021).requires_grad_()
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(8))
    loss = torch.nn.functional.cross_entropy(encoder(image), torch.tensor([2]))
    gradient = [each.detach() for each in torch.autograd.grad(loss, list(encoder.parameters()))]
    rules = PlainRules(NETWORK, 1, 4, 0.1, 1, 0.1, steps, 2021, 1e-9, search)
    torch.manual_seed(4)
    first = torch.rand(1, 1, 16, 16)
    torch.manual_seed(4)
    found = invert_plainly(gradient, (1, 16, 16), 4, rules)
    assert float((found - image).abs().mean()) < 0.8 * float((first - image).abs().mean())
