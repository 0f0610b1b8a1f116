"""Mini-batches of local training: drawn, augmented and cut, with cached teacher outputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from physical.transforms import AugmentationConfig, augment, to_unit

TeacherOutputs = tuple[Tensor, ...]  # the first axis of each is that of the images
# Called with images [N, C, H, W] in [0, 1] and their rows [N].
TeacherFunction = Callable[[Tensor, Tensor], TeacherOutputs]

IMAGES_AT_ONCE = 256  # augmented, or shown to a frozen network, in one go


@dataclass(frozen=True)
class CachedImages:
    """Augmented images of several steps, with what frozen networks returned for them.

    Args:
        load: Returns the images and their rows: ([N, C, H, W] in [0, 1], [N]).
    """

    load: Callable[[], tuple[Tensor, Tensor]]
    _outputs: dict[str, TeacherOutputs] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def teacher_outputs(self, name: str, compute: TeacherFunction) -> TeacherOutputs:
        """Return the outputs of a function for all images, computed once for each name."""
        if name not in self._outputs:
            chunks = (torch.split(each, IMAGES_AT_ONCE) for each in self.load())
            parts = [compute(*chunk) for chunk in zip(*chunks, strict=True)]
            self._outputs[name] = tuple(torch.cat(same) for same in zip(*parts, strict=True))
        return self._outputs[name]


@dataclass(frozen=True)
class TrainingBatch:
    """Input of one optimiser step.

    Args:
        images: Augmented images, values in [0, 1], shape [B, C, H, W].
        rows: Class of each as a row of the head, shape [B].
        source: The images that the batch was cut from; none: teachers see the batch alone.
        indices: Where the batch is in ``source``.
    """

    images: Float[Tensor, "B C H W"]
    rows: Int[Tensor, " B"]
    source: CachedImages | None = None
    indices: Int[Tensor, " B"] | slice = field(default_factory=lambda: slice(None))

    def teacher_outputs(self, name: str, compute: TeacherFunction) -> TeacherOutputs:
        """Return the outputs of a function for this batch, cut from those of ``source``."""
        if self.source is None:
            return compute(self.images, self.rows)
        return tuple(each[self.indices] for each in self.source.teacher_outputs(name, compute))


class Batches:
    """The training images of one round, drawn batch by batch.

    Args:
        images: 8-bit pixels.
        rows: Class of each as a row of the head.
        batch_size: Images of a step; the last, smaller batch is kept.
        augmentation: How images are augmented.
        generator: Draws order and augmentation.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "N C H W"],
        rows: Int[Tensor, " N"],
        batch_size: int,
        augmentation: AugmentationConfig,
        generator: torch.Generator,
    ) -> None:
        self._images, self._rows, self._batch_size = images, rows, batch_size
        self._augmentation, self._generator = augmentation, generator
        # Without augmentation one cache serves all epochs.
        self._unaugmented = (
            CachedImages(lambda: (to_unit(images), rows)) if augmentation.is_off else None
        )

    def epoch(self) -> Iterator[TrainingBatch]:
        """Return the batches of one epoch in a fresh random order.

        Images of several steps are augmented, and shown to teachers, at once: a small network takes
        hardly longer for eight small batches than for one.
        """
        order = torch.randperm(len(self._images), generator=self._generator)
        if self._unaugmented is not None:
            yield from map(self.at, torch.split(order, self._batch_size))
            return
        steps_at_once = max(IMAGES_AT_ONCE // self._batch_size, 1)
        for chosen in torch.split(order, steps_at_once * self._batch_size):
            images, rows = self._augmented(chosen), self._rows[chosen]
            source = _cached(images, rows)
            for begin in range(0, len(chosen), self._batch_size):
                indices = slice(begin, begin + self._batch_size)
                yield TrainingBatch(images[indices], rows[indices], source, indices)

    def at(self, chosen: Int[Tensor, " B"]) -> TrainingBatch:
        """Return the images at these indices as one batch."""
        images, rows = self._augmented(chosen), self._rows[chosen]
        if self._unaugmented is None:
            return TrainingBatch(images, rows)
        return TrainingBatch(images, rows, self._unaugmented, chosen)

    def _augmented(self, chosen: Int[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        return augment(to_unit(self._images[chosen]), self._augmentation, self._generator)


def _cached(images: Tensor, rows: Tensor) -> CachedImages:
    return CachedImages(lambda: (images, rows))
