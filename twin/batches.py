"""Mini-batches of local training: drawn, augmented and cut, with cached teacher outputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from physical.transforms import AugmentationConfig, augment, to_unit

Answers = tuple[Tensor, ...]  # the first axis of each is that of the images
Ask = Callable[[Tensor, Tensor], Answers]  # given images [N, C, H, W] in [0, 1] and rows [N]

TOGETHER = 256  # images that are varied at once, and that a frozen network looks at


@dataclass(frozen=True)
class Stretch:
    """Images of several steps, as those steps see them.

    A frozen network need look at each of them only once.

    Args:
        look: Returns the images and their rows: ([N, C, H, W] in [0, 1], [N]).
    """

    look: Callable[[], tuple[Tensor, Tensor]]
    _answers: dict[str, Answers] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def ask(self, name: str, ask: Ask) -> Answers:
        """Return what ``ask`` says of all of the images.

        Asked the first time that somebody comes with this name.
        """
        if name not in self._answers:
            parts = [
                ask(*some)
                for some in zip(*(torch.split(each, TOGETHER) for each in self.look()), strict=True)
            ]
            self._answers[name] = tuple(torch.cat(same) for same in zip(*parts, strict=True))
        return self._answers[name]


@dataclass(frozen=True)
class TrainingBatch:
    """What one step sees.

    Args:
        images: Augmented images, values in [0, 1], shape [B, C, H, W].
        rows: Class of each as a row of the head, shape [B].
        stretch: The images that these are among; none: they are by themselves.
        places: Where these are among them.
    """

    images: Float[Tensor, "B C H W"]
    rows: Int[Tensor, " B"]
    stretch: Stretch | None = None
    places: Int[Tensor, " B"] | slice = field(default_factory=lambda: slice(None))

    def ask(self, name: str, ask: Ask) -> Answers:
        """Return what ``ask`` says of these images, from what it said of the whole stretch.

        Where there is one.
        """
        if self.stretch is None:
            return ask(self.images, self.rows)
        return tuple(answer[self.places] for answer in self.stretch.ask(name, ask))


class Batches:
    """The images of a round, ready to be drawn from.

    Args:
        images: 8-bit pixels.
        rows: Class of each as a row of the head.
        batch_size: Images of a step; the last, smaller batch is kept.
        augmentation: How images are varied.
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
        self._still = (
            Stretch(self._all) if augmentation.is_off else None
        )  # nothing changes all round long

    def epoch(self) -> Iterator[TrainingBatch]:
        """Return the batches of an epoch, in an order of its own.

        Images are varied for several steps at once, and a teacher sees them as they are then: a
        small network is hardly slower with eight small batches than with one.
        """
        order = torch.randperm(len(self._images), generator=self._generator)
        if self._still is not None:
            yield from map(self.at, torch.split(order, self._batch_size))
            return
        for chosen in torch.split(order, max(TOGETHER // self._batch_size, 1) * self._batch_size):
            images, rows = self._varied(chosen), self._rows[chosen]
            stretch = Stretch(partial(_as_given, images, rows))
            for begin in range(0, len(chosen), self._batch_size):
                places = slice(begin, begin + self._batch_size)
                yield TrainingBatch(images[places], rows[places], stretch, places)

    def at(self, chosen: Int[Tensor, " B"]) -> TrainingBatch:
        """Return the images at these places as a batch of their own."""
        if self._still is None:
            return TrainingBatch(self._varied(chosen), self._rows[chosen])
        return TrainingBatch(self._varied(chosen), self._rows[chosen], self._still, chosen)

    def _varied(self, chosen: Int[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        return augment(to_unit(self._images[chosen]), self._augmentation, self._generator)

    def _all(self) -> tuple[Tensor, Tensor]:
        return to_unit(self._images), self._rows


def _as_given(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    return images, rows
