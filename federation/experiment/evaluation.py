"""Evaluation of a global model on test images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from federation.experiment import metrics
from federation.method import Classifier
from incremental.attention import attention
from incremental.cores import all_cores
from incremental.device import CPU
from incremental.head import Weights
from incremental.inference import logits_of
from incremental.network import NetworkConfig, frozen_network
from physical.batch import Batch
from physical.transforms import to_tensor, to_unit


@dataclass(frozen=True)
class Evaluation:
    """How a model did on the classes seen so far.

    Args:
        confusion: Rows true, columns predicted, in the order of the seen classes; a last column for
            any other answer.
        by_task: Accuracy on the images of each task so far, among all its classes.
    """

    confusion: metrics.Confusion
    by_task: tuple[float, ...]
    accuracy: float = field(init=False)
    macro_f1: float = field(init=False)

    def __post_init__(self) -> None:
        """Derive the numbers from the confusion."""
        object.__setattr__(self, "accuracy", metrics.accuracy(self.confusion))
        object.__setattr__(self, "macro_f1", metrics.macro_f1(self.confusion))


_AT_ONCE = 64  # images: in float32 their maps then fit into the caches


class Evaluator:
    """Test images by task, ready to be asked again and again.

    Args:
        images: The split that is measured on.
        tasks: Class names of each task.
        network: What weights are put into.
        device: Where it looks.
    """

    def __init__(
        self,
        images: Batch,
        tasks: Sequence[Sequence[str]],
        network: NetworkConfig,
        device: torch.device = CPU,
    ) -> None:
        self.tasks = tuple(tuple(names) for names in tasks)
        self._network = network
        self._device = device
        order = {
            name: index for index, name in enumerate(name for names in tasks for name in names)
        }
        truth = np.array([order.get(name, -1) for name in images.vocabulary], np.int64)[
            images.labels
        ]
        used = np.flatnonzero(truth >= 0)
        used = used[
            np.argsort(truth[used], kind="stable")
        ]  # classes in the order of the tasks: the first tasks are a prefix
        self._truth: NDArray[np.int64] = truth[used]
        self._images: Tensor = to_tensor(images.images[used])
        self._order = order

    def num_images(self) -> list[int]:
        """Return the test images of each task."""
        ends = np.searchsorted(self._truth, np.cumsum([len(names) for names in self.tasks]))
        return [int(count) for count in np.diff(ends, prepend=0)]

    def unmeasured_task(self, most: int) -> int | None:
        """Return the first task, from 0, without an image among so many; or none."""
        for task in range(len(self.tasks)):
            ends = np.cumsum(self.num_images()[: task + 1])
            hit = np.unique(np.searchsorted(ends, self._chosen(task, most), side="right"))
            for index in range(task + 1):
                if index not in hit:
                    return index
        return None

    def _chosen(self, task: int, most: int | None) -> NDArray[np.int64]:
        """Return the positions of evenly taken images of the tasks up to one."""
        end = sum(self.num_images()[: task + 1])
        return np.linspace(0, end - 1, min(most or end, end)).astype(np.int64)

    def evaluate(
        self, weights: Weights, class_names: Sequence[str], task: int, most: int | None = None
    ) -> Evaluation:
        """Measure a model on the classes of the tasks up to one.

        A class that the model does not know is named wrongly: what detection missed is not hidden
        here.

        Args:
            weights: The model, evaluated in float32.
            class_names: One per row of its head.
            task: Last task whose classes count as seen.
            most: Look at this many images only, evenly taken from all classes; none: at all.
        """
        network = frozen_network(self._network, weights, self._device)
        # No twin trains meanwhile, and an image's logits do not depend on the threads.
        with all_cores():
            return self.evaluate_classifier(
                lambda images: logits_of(network, images, _AT_ONCE).argmax(1),
                class_names,
                task,
                most,
            )

    def evaluate_classifier(
        self, classify: Classifier, class_names: Sequence[str], task: int, most: int | None = None
    ) -> Evaluation:
        """Measure whatever classifies images.

        Args:
            classify: Returns an index into ``class_names`` for each 8-bit image [N, C, H, W].
            class_names: One for each index.
            task: Last task whose classes count as seen.
            most: Measure this many images only; none: all.
        """
        seen = [name for names in self.tasks[: task + 1] for name in names]
        chosen = self._chosen(task, most)
        images, truth = self._images[torch.from_numpy(chosen)], self._truth[chosen]
        if class_names:
            column = torch.tensor([self._order.get(name, len(self._order)) for name in class_names])
            predicted = column[classify(images)].numpy()
        else:
            predicted = np.full(len(truth), -1)
        starts = np.searchsorted(
            truth, np.cumsum([0, *(len(names) for names in self.tasks[: task + 1])])
        )
        right = predicted == truth
        by_task = tuple(float(right[begin:end].mean()) for begin, end in pairwise(starts))
        return Evaluation(metrics.confusion_matrix(truth, predicted, len(seen)), by_task)

    def attention_examples(
        self,
        teacher: Weights,
        student: Weights,
        teacher_names: Sequence[str],
        student_names: Sequence[str],
    ) -> dict[str, NDArray[Any]]:
        """Return a test image of each class the teacher knows, with both Grad-CAMs for that class.

        Returns:
            ``images`` [n, H, W, C] uint8, ``teacher`` and ``student`` [n, h, w], ``class_names``
            [n].
        """
        names = [name for name in teacher_names if name in self._order and name in student_names]
        chosen = torch.tensor(
            [int(np.flatnonzero(self._truth == self._order[name])[0]) for name in names]
        )
        images = self._images[chosen]
        maps = {}
        for which, weights, known in (
            ("teacher", teacher, teacher_names),
            ("student", student, student_names),
        ):
            network = frozen_network(self._network, weights)
            rows = torch.tensor([list(known).index(name) for name in names])
            maps[which] = attention(network, network(to_unit(images)), rows).numpy()
        return {
            "images": images.permute(0, 2, 3, 1).numpy(),
            **maps,
            "class_names": np.array(names),
        }
