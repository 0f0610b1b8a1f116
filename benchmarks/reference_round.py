"""The plain reference, part 2: a round of FedKA as public code of this line of work runs it.

It has the habits of GLFC and LGA: the global model is copied into every twin of the pool; each
twin's entropy is computed in every round on all its current images, through the training loader;
herding and prototypes go through a loader image by image; prototypes are perturbed one at a time;
each gradient is inverted separately; models are averaged tensor by tensor in Python.

The inversion's search is ours by default (Adam, 300 steps, early stop), so that the ratio shows
batching and not another algorithm. ``lbfgs`` is the search of the public code: 250 steps of up to
20 inner ones, without early stop.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.reference import PlainNetwork, PlainTask, loader_of, train_plainly
from incremental.network import NetworkConfig
from incremental.reconstruction import GradientEncoder

Search = Literal["lbfgs", "adam"]
Stages = dict[str, float]


@dataclass(frozen=True)
class Archived:
    """Images of a class that ends; the best ``room`` of them become exemplars."""

    images: NDArray[np.uint8]
    room: int


@dataclass
class PlainTwin:
    """A twin of the plain reference: arrays and its own model.

    Args:
        current: Images of its current task, [N, H, W, C], 8 bit.
        current_rows: Their classes.
        memory: Exemplars.
        memory_rows: Their classes.
        task: Its classes by task.
        archived: Classes that end in this round.
        fresh: Whether it has prototypes to send.
        model: Its copy of the global model.
    """

    current: NDArray[np.uint8]
    current_rows: NDArray[np.int64]
    memory: NDArray[np.uint8]
    memory_rows: NDArray[np.int64]
    task: PlainTask
    archived: Sequence[Archived] = ()
    fresh: bool = False
    model: PlainNetwork | None = None


@dataclass(frozen=True)
class PlainRules:
    """Settings shared by all twins, and settings of the prototypes."""

    network: NetworkConfig
    epochs: int
    batch_size: int
    learning_rate: float
    perturb_steps: int
    perturb_rate: float
    invert_steps: int
    public_seed: int
    stop_below: float = 1e-4
    search: Search = "adam"


def plain_round(
    looking: PlainNetwork,
    grown: PlainNetwork,
    teacher: PlainNetwork | None,
    twins: Sequence[PlainTwin],
    chosen: Sequence[int],
    judged: tuple[Tensor, Tensor] | None,
    rules: PlainRules,
) -> tuple[PlainNetwork, Stages]:
    """Run one round.

    Args:
        looking: The global model with which twins observe their images.
        grown: The same model with rows for new classes, which is trained.
        teacher: The old model; None in the first task.
        twins: All twins of the pool.
        chosen: Indices of the twins that train.
        judged: Reconstructed prototypes [P, C, H, W], 8 bit, and their rows, on which the proxy
            server scores the model.
        rules: Settings.

    Returns:
        The new global model, and the seconds of each stage.
    """
    clock = perf_counter()
    stages: Stages = {}

    def finished(stage: str) -> None:
        nonlocal clock
        stages[stage] = perf_counter() - clock
        clock = perf_counter()

    for twin in twins:
        twin.model = copy.deepcopy(looking)
        mean_entropy(twin.model, twin, rules)
        for each in twin.archived:
            herd_plainly(features_plainly(twin.model, each.images, rules), each.room)
    finished("observe")
    if judged is not None:
        score_plainly(grown, judged, rules)
        copy.deepcopy(grown)  # the best model so far is kept
    finished("score")
    for index in chosen:
        twin = twins[index]
        twin.model = copy.deepcopy(grown)
        images = np.concatenate([twin.current, twin.memory])
        rows = np.concatenate([twin.current_rows, twin.memory_rows])
        loader = loader_of(images, rows.tolist(), rules.network, rules.batch_size, training=True)
        own_teacher = copy.deepcopy(teacher)
        train_plainly(twin.model, own_teacher, loader, twin.task, rules.epochs, rules.learning_rate)
    finished("train")
    gradients: list[list[Tensor]] = []
    for index in chosen:
        if twins[index].fresh:
            gradients += prototype_gradients(twins[index], rules)
    finished("prototypes")
    averaged = copy.deepcopy(grown)
    averaged.load_state_dict(average([_state(twins[index]) for index in chosen]))
    shape = _shape(twins[chosen[0]].current)
    classes = grown.network.head.out_features
    for gradient in gradients:
        invert_plainly(gradient, shape, classes, rules)
    finished("aggregate")
    for twin in twins:
        twin.model = None
    return averaged, stages


def _state(twin: PlainTwin) -> dict[str, Tensor]:
    assert twin.model is not None
    return twin.model.state_dict()


def _shape(images: NDArray[np.uint8]) -> tuple[int, int, int]:
    return images.shape[3], images.shape[1], images.shape[2]


def mean_entropy(model: PlainNetwork, twin: PlainTwin, rules: PlainRules) -> float:
    """Return the mean entropy of a twin's current images, using the training loader."""
    if not model.network.head.out_features:
        return 0.0
    model.eval()
    total = 0.0
    for images, _ in loader_of(
        twin.current, twin.current_rows.tolist(), rules.network, rules.batch_size, training=True
    ):
        with torch.no_grad():
            probabilities = torch.softmax(model(images), 1)
        total += (-(probabilities * torch.log(probabilities + 1e-5)).sum(1)).sum().item()
    return total / max(len(twin.current), 1)


def features_plainly(
    model: PlainNetwork, images: NDArray[np.uint8], rules: PlainRules
) -> NDArray[np.float32]:
    """Return unit features, image after image through a loader."""
    model.eval()
    parts = []
    for batch, _ in loader_of(
        images, [0] * len(images), rules.network, rules.batch_size, training=False
    ):
        with torch.no_grad():
            parts.append(
                model.network.forward_upper(model.network.backbone.lower(batch)).features.numpy()
            )
    features: NDArray[np.float32] = np.concatenate(parts)
    unit: NDArray[np.float32] = features / np.linalg.norm(features, axis=1, keepdims=True).clip(
        1e-12
    )
    return unit


def herd_plainly(features: NDArray[np.float32], room: int) -> list[int]:
    """Choose exemplars one by one, computing all distances for each (iCaRL)."""
    mean, total = features.mean(0), np.zeros_like(features[0])
    chosen: list[int] = []
    for step in range(min(room, len(features))):
        distances = np.linalg.norm(mean - (total + features) / (step + 1), axis=1)
        distances[chosen] = np.inf
        chosen.append(int(np.argmin(distances)))
        total = total + features[chosen[-1]]
    return chosen


def score_plainly(model: PlainNetwork, judged: tuple[Tensor, Tensor], rules: PlainRules) -> float:
    """Return the accuracy on reconstructed prototypes."""
    model.eval()
    images = judged[0].permute(0, 2, 3, 1).numpy()
    correct = 0
    for batch, rows in loader_of(images, judged[1].tolist(), rules.network, 64, training=False):
        with torch.no_grad():
            correct += (model(batch).argmax(1) == rows).sum().item()
    return correct / len(images)


def prototype_gradients(twin: PlainTwin, rules: PlainRules) -> list[list[Tensor]]:
    """Return, for each current class, the public network's gradient at its perturbed prototype."""
    model = twin.model
    assert model is not None
    model.eval()
    rows = model.network.head.out_features
    encoder = _public(_shape(twin.current), rows, rules.public_seed)
    gradients = []
    for row in np.unique(twin.current_rows):
        images = twin.current[twin.current_rows == row]
        features = features_plainly(model, images, rules)
        nearest = int(np.argmin(np.linalg.norm(features - features.mean(0), axis=1)))
        image = torch.from_numpy(images[nearest]).permute(2, 0, 1)[None].float() / 255
        image.requires_grad_()
        target = nn.functional.one_hot(torch.tensor([int(row)]), rows).float()
        optimizer = torch.optim.SGD([image], lr=rules.perturb_rate, weight_decay=1e-5)
        for _ in range(rules.perturb_steps):
            loss = nn.functional.binary_cross_entropy_with_logits(
                model.network(image).logits, target
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            optimizer.step()
            image.data.clamp_(0, 1)
        loss = nn.functional.cross_entropy(encoder(image.detach()), torch.tensor([int(row)]))
        gradients.append(
            [
                each.detach().clone()
                for each in torch.autograd.grad(loss, list(encoder.parameters()))
            ]
        )
    return gradients


def _public(shape: tuple[int, int, int], classes: int, seed: int) -> GradientEncoder:
    return GradientEncoder(shape, classes, seed).requires_grad_()


def invert_plainly(
    gradient: Sequence[Tensor], shape: tuple[int, int, int], classes: int, rules: PlainRules
) -> Tensor:
    """Search for the one image that has this gradient.

    Returns:
        The image, shape [1, C, H, W].
    """
    encoder = _public(shape, classes, rules.public_seed)
    parameters = list(encoder.parameters())
    # iDLG: the only row of the linear layer with a negative gradient
    row = gradient[-2].sum(1).argmin().reshape(1)
    dummy = torch.rand(1, *shape).requires_grad_()
    scale = torch.stack([sent.square().sum() for sent in gradient]).sum().item()

    def difference() -> Tensor:
        loss = nn.functional.cross_entropy(encoder(dummy), row)
        found = torch.autograd.grad(loss, parameters, create_graph=True)
        distance = torch.stack(
            [(mine - sent).square().sum() for mine, sent in zip(found, gradient, strict=True)]
        ).sum()
        (dummy.grad,) = torch.autograd.grad(distance, [dummy])
        return distance.detach()

    if rules.search == "lbfgs":
        search = torch.optim.LBFGS([dummy], lr=0.1)
        for _ in range(rules.invert_steps):
            search.step(difference)  # type: ignore[no-untyped-call]  # untyped in torch
        return dummy.detach()
    optimizer = torch.optim.Adam([dummy], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rules.invert_steps, 0.1 / 50)
    for _ in range(rules.invert_steps):
        if difference().item() < rules.stop_below * scale:
            break
        optimizer.step()
        schedule.step()
        dummy.data.clamp_(0, 1)
    return dummy.detach()


def average(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several models, tensor by tensor."""
    mean = copy.deepcopy(states[0])
    for name, value in mean.items():
        for other in states[1:]:
            value += other[name]  # noqa: PLW2901
        mean[name] = value / len(states) if value.is_floating_point() else value // len(states)
    return mean
