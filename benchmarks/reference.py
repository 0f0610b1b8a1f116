"""The plain reference, part 1: a local step as a research programmer writes it from the papers.

It has the same network, weights, losses, batch size and optimiser as ours. The differences are
habits that the public code of this line of work has; nothing is slowed down on purpose. Each habit
can be switched off (``Habits``) to show its cost:

* float32 throughout, tensors in torch's default layout.
* ``per_image_transforms``: a data set that opens each image through PIL, augments it with
  torchvision and converts it to a tensor, in every epoch anew, in a ``DataLoader`` without worker
  processes (iCaRL, GLFC, LGA; workers would take the cores that train).
* ``teacher_graph``: the teacher runs with gradients enabled and its outputs are not detached, so
  that the backward pass goes through it too; its gradients are discarded (GLFC, LGA).
* ``library_maps``: attention maps by the package pytorch-grad-cam. The teacher's maps come from its
  ``GradCAM``, without the final resizing of each map by OpenCV, because the loss compares maps as
  they are; the logits come from the same forward pass. ``GradCAM`` returns numbers without a graph,
  from which the student could not learn (a flaw of FACIL's LwM). The student therefore uses the
  package's hooks (``ActivationsAndGradients`` with ``detach=False``) and computes what ``GradCAM``
  computes: backward from the scores through the whole network with the graph kept, channel weights
  by the mean gradient, rectified weighted sum of the maps, which keep their graph. FACIL runs the
  student once more for this; here one forward pass serves loss and map.
* ``items``: the value of each loss term is fetched in each step for a running mean.

Two things of the public code are *not* copied, because they would change the result:
``drop_last``, and resetting the learning rate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from incremental.network import IncrementalNetwork, NetworkConfig


@dataclass(frozen=True)
class Habits:
    """Habits of the plain reference; by default all are on."""

    per_image_transforms: bool = True
    teacher_graph: bool = True
    library_maps: bool = True
    items: bool = True


@dataclass(frozen=True)
class PlainTask:
    """Classes and weights of the plain loss.

    Args:
        groups: Rows of each finished task, and of the current one last.
        alpha: Weight of the classification loss.
        beta: Weight of the semantic distillation.
        gamma: Weight of the attention distillation.
    """

    groups: tuple[tuple[int, ...], ...]
    alpha: float = 2.0
    beta: float = 1.0
    gamma: float = 1.0


class PlainNetwork(nn.Module):
    """The project's network with a plain interface: normalised images in, logits out.

    Args:
        network: The network whose layers are used; the data set normalises the images.
    """

    def __init__(self, network: IncrementalNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.network.forward_upper(self.network.backbone.lower(images)).logits

    @property
    def last_layer(self) -> nn.Module:
        """The layer whose maps are compared."""
        backbone: Any = self.network.backbone
        name = "upper_stage" if hasattr(backbone, "upper_stage") else "second"
        layer: nn.Module = getattr(backbone, name)
        return layer


class PlainDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A data set that opens its images one by one.

    Args:
        images: 8-bit arrays, shape [N, H, W, C].
        rows: Class of each image.
        transform: Function (PIL image) -> tensor.
    """

    def __init__(
        self, images: NDArray[np.uint8], rows: Sequence[int], transform: Callable[[Any], Tensor]
    ) -> None:
        self.images = images
        self.rows = rows
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image as a tensor, and its class."""
        from PIL import Image

        array = self.images[index]
        image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).convert("RGB")
        return self.transform(image), int(self.rows[index])


def transform_of(config: NetworkConfig, image_side: int, training: bool) -> Callable[[Any], Tensor]:
    """Return torchvision's transform of one image: resize, crop, brightness, tensor, normalise."""
    from torchvision import transforms  # type: ignore[import-untyped]  # has no stubs

    steps: list[Any] = (
        [] if image_side == config.image_size else [transforms.Resize(config.image_size)]
    )
    if training:
        steps += [
            transforms.RandomCrop(config.image_size, padding=4),
            transforms.ColorJitter(brightness=63 / 255),
        ]
    steps += [transforms.ToTensor(), transforms.Normalize(_three(config.mean), _three(config.std))]
    return transforms.Compose(steps)  # type: ignore[no-any-return]  # torchvision has no stubs


def _three(values: tuple[float, ...]) -> tuple[float, ...]:
    return values * 3 if len(values) == 1 else values


def loader_of(
    images: NDArray[np.uint8],
    rows: Sequence[int],
    config: NetworkConfig,
    batch_size: int,
    training: bool,
    habits: Habits | None = None,
) -> Any:
    """Return a loader over images."""
    dataset: Any = PlainDataset(images, rows, transform_of(config, images.shape[1], training))
    # without this habit the images are prepared once, outside of the timing
    if habits is not None and not habits.per_image_transforms:
        ready = [dataset[index] for index in range(len(dataset))]
        dataset = torch.utils.data.TensorDataset(
            torch.stack([image for image, _ in ready]), torch.tensor([row for _, row in ready])
        )
    return torch.utils.data.DataLoader(
        dataset, batch_size=batch_size, shuffle=training, num_workers=0
    )


def image_weights(logits: Tensor, rows: Tensor, groups: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return FedKA's gradient weights by a loop over tasks with masks, as LGA's code does."""
    old, current = sum(len(group) for group in groups[:-1]), len(groups[-1])
    weights = torch.ones(len(rows), device=logits.device)
    if not old:
        return weights
    one_hot = nn.functional.one_hot(rows, logits.shape[1]).float()
    gradient = (torch.abs(torch.sigmoid(logits.detach()) - one_hot) * one_hot).sum(1)
    gradient = gradient ** (old / (old + current))
    for group in groups:
        mask = torch.zeros(len(rows), dtype=torch.bool, device=logits.device)
        for row in group:
            mask = mask | (rows == row)
        if mask.any():
            weights[mask] = gradient[mask] / gradient[mask].mean().clamp(min=1e-8)
    return weights


class OwnOrFirstChoice:
    """Score whose attention is compared: the image's own class if the teacher has it, else its top.

    Args:
        row: Class of the image.
    """

    def __init__(self, row: int) -> None:
        self.row = row

    def __call__(self, output: Tensor) -> Tensor:
        """Return the score to differentiate."""
        return output[self.row if self.row < len(output) else int(output.argmax())]


def _teacher_cam(teacher: PlainNetwork) -> Any:
    """Return the package's GradCAM, changed to return its maps before they are resized."""
    from pytorch_grad_cam import GradCAM

    class Maps(GradCAM):  # type: ignore[misc]  # pytorch-grad-cam has no types
        def compute_cam_per_layer(
            self, input_tensor: Tensor, targets: Any, eigen_smooth: bool
        ) -> list[NDArray[np.float32]]:
            hooks = self.activations_and_grads
            layer = self.target_layers[0]
            maps = hooks.activations[0].numpy()
            gradients = hooks.gradients[0].numpy()
            return [
                np.maximum(
                    self.get_cam_image(input_tensor, layer, targets, maps, gradients, eigen_smooth),
                    0,
                )
            ]

        def aggregate_multi_layers(
            self, cam_per_target_layer: list[NDArray[np.float32]]
        ) -> NDArray[np.float32]:
            return cam_per_target_layer[0]

    return Maps(model=teacher, target_layers=[teacher.last_layer])


class PlainLoss:
    """FedKA's loss of a batch: gradient-adaptive classification, semantic and attention losses.

    Args:
        student: Network in training mode; its layers get hooks.
        teacher: Network in evaluation mode; None in the first task.
        task: Classes and weights.
        habits: Habits that are on.
    """

    def __init__(
        self, student: PlainNetwork, teacher: PlainNetwork | None, task: PlainTask, habits: Habits
    ) -> None:
        from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients

        self.student, self.teacher, self.task, self.habits = student, teacher, task, habits
        self.cam = _teacher_cam(teacher) if teacher is not None and habits.library_maps else None
        self.hooks = ActivationsAndGradients(student, [student.last_layer], None, detach=False)
        self.teacher_hooks = None
        if teacher is not None and self.cam is None:
            self.teacher_hooks = ActivationsAndGradients(
                teacher, [teacher.last_layer], None, detach=False
            )

    def __call__(self, images: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Return the terms; call ``zero_grad`` before the backward pass of their sum."""
        logits = self.hooks(images)
        weights = image_weights(logits, rows, self.task.groups)
        target = nn.functional.one_hot(rows, logits.shape[1]).float()
        each = nn.functional.binary_cross_entropy_with_logits(
            logits, target, reduction="none"
        ).mean(1)
        terms = {"classification": self.task.alpha * (weights * each).mean()}
        if self.teacher is None:
            return terms
        old_logits, old_maps, shown = self._teacher_outputs(images, rows)
        soft = torch.cat([torch.sigmoid(old_logits), target[:, old_logits.shape[1] :]], 1)
        each = nn.functional.binary_cross_entropy_with_logits(logits, soft, reduction="none").mean(
            1
        )
        terms["semantic"] = self.task.beta * (weights * each).mean()
        maps = self._student_maps(logits, shown)
        distance = (_unit(old_maps) - _unit(maps)).abs().sum(1)
        terms["attention"] = self.task.gamma * (weights * distance).mean()
        return terms

    def close(self) -> None:
        """Remove the hooks after the last backward pass, since the package cuts the graph too."""
        for hooks in (self.hooks, self.teacher_hooks, self.cam and self.cam.activations_and_grads):
            if hooks is not None:
                hooks.release()

    def _teacher_outputs(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the teacher's logits, its maps and the classes they are of."""
        assert self.teacher is not None
        if self.cam is not None:
            maps = torch.from_numpy(
                self.cam(images, [OwnOrFirstChoice(int(row)) for row in rows])
            ).to(images.device)
            old_logits = self.cam.outputs
        else:
            assert self.teacher_hooks is not None
            with torch.set_grad_enabled(self.habits.teacher_graph):
                old_logits = self.teacher_hooks(images)
        if not self.habits.teacher_graph:
            old_logits = old_logits.detach()
        shown = torch.where(rows < old_logits.shape[1], rows, old_logits.argmax(1))
        if self.cam is None:
            assert self.teacher_hooks is not None
            maps = _closed_form(self.teacher, self.teacher_hooks.activations[0], shown).detach()
        return old_logits, maps, shown

    def _student_maps(self, logits: Tensor, shown: Tensor) -> Tensor:
        activations = self.hooks.activations[0]
        if not self.habits.library_maps:
            return _closed_form(self.student, activations, shown)
        self.student.zero_grad()
        scores = sum(output[int(row)] for output, row in zip(logits, shown, strict=True))
        assert isinstance(scores, Tensor)
        scores.backward(retain_graph=True)  # type: ignore[no-untyped-call]  # untyped in torch
        channel_weights = self.hooks.gradients[0].detach().mean((2, 3))
        return torch.relu((channel_weights[:, :, None, None] * activations).sum(1))


def _closed_form(network: PlainNetwork, activations: Tensor, rows: Tensor) -> Tensor:
    weights = network.network.head.weight[rows] / (activations.shape[2] * activations.shape[3])
    return torch.relu((weights[:, :, None, None] * activations).sum(1))


def _unit(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat / (flat.square().sum(1, keepdim=True) + 1e-16).sqrt().clamp_min(1e-8)


def train_plainly(
    student: PlainNetwork,
    teacher: PlainNetwork | None,
    loader: Any,
    task: PlainTask,
    epochs: int,
    learning_rate: float,
    habits: Habits | None = None,
    device: str = "cpu",
) -> dict[str, float]:
    """Train a network in place.

    Returns:
        The mean of each loss term over the steps (of the last step without ``items``).
    """
    habits = habits or Habits()
    loss_of = PlainLoss(student, teacher, task, habits)
    student.train()
    if teacher is not None:
        teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate, weight_decay=1e-5)
    running: dict[str, float] = {}
    last: dict[str, Tensor] = {}
    for _ in range(epochs):
        for images, rows in loader:
            last = loss_of(images.to(device), rows.to(device))
            loss = torch.stack(list(last.values())).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            torch.nn.utils.clip_grad_norm_(student.parameters(), 10.0)
            optimizer.step()
            if habits.items:
                for name, value in last.items():
                    running[name] = running.get(name, 0.0) + value.item()
    loss_of.close()
    steps = epochs * len(loader)
    return {name: value / steps for name, value in running.items()} or {
        name: value.item() for name, value in last.items()
    }
