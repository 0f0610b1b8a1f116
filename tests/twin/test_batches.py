from typing import Any

import pytest
import torch
from torch import Tensor

from physical.transforms import AugmentationConfig, to_unit
from twin.batches import IMAGES_AT_ONCE, Batches, CachedImages, TrainingBatch

STILL = AugmentationConfig(crop_padding_pixels=0, brightness=0.0)
MIRRORED = AugmentationConfig(crop_padding_pixels=0, brightness=0.0, horizontal_flip=True)


def batches(
    count: int = 600, batch_size: int = 32, augmentation: AugmentationConfig = STILL, seed: int = 1
) -> Batches:
    """Images that can be told apart.

    Pixel (0, 0) and its mirror image spell the place, the row is the place modulo 7.
    """
    pixels = torch.zeros(count, 1, 2, 4, dtype=torch.uint8)
    place = torch.arange(count)
    pixels[:, 0, 0, 0] = pixels[:, 0, 0, 3] = place // 256
    pixels[:, 0, 1, 0] = pixels[:, 0, 1, 3] = place % 256
    return Batches(pixels, place % 7, batch_size, augmentation, torch.Generator().manual_seed(seed))


def places_in(images: Tensor) -> Tensor:
    whole = (images * 255).round().long()
    return whole[:, 0, 0, 0] * 256 + whole[:, 0, 1, 0]


@pytest.mark.parametrize("augmentation", [STILL, MIRRORED], ids=["still", "varied"])
@pytest.mark.parametrize(
    ("count", "batch_size"), [(600, 32), (600, 50), (256, 256), (300, 299), (700, 400), (5, 32)]
)
def test_an_epoch_has_every_image_once_in_batches_of_the_size_that_was_asked_for(
    augmentation: AugmentationConfig, count: int, batch_size: int
) -> None:
    drawn = list(batches(count, batch_size, augmentation).epoch())
    assert [len(batch.rows) for batch in drawn] == [batch_size] * (count // batch_size) + [
        count % batch_size
    ] * bool(count % batch_size)
    places = torch.cat([places_in(batch.images) for batch in drawn])
    assert sorted(places.tolist()) == list(range(count))
    assert torch.equal(torch.cat([batch.rows for batch in drawn]), places % 7)


@pytest.mark.parametrize("augmentation", [STILL, AugmentationConfig()], ids=["still", "varied"])
def test_cached_teacher_outputs_equal_those_of_each_batch_alone(
    augmentation: AugmentationConfig,
) -> None:
    looked = []

    def ask(images: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        looked.append(len(images))
        return images.sum((1, 2, 3)), rows * 2

    for batch in batches(augmentation=augmentation).epoch():
        sums, twice = batch.teacher_outputs("sums", ask)
        assert torch.equal(sums, batch.images.sum((1, 2, 3)))
        assert torch.equal(twice, batch.rows * 2)
    assert sum(looked) == 600
    assert max(looked) <= IMAGES_AT_ONCE


def test_unaugmented_images_are_shown_to_a_teacher_once_and_augmented_ones_in_every_epoch() -> None:
    for augmentation, looks in ((STILL, 600), (AugmentationConfig(), 1200)):
        looked: list[Any] = []
        source = batches(augmentation=augmentation)
        for batch in [*source.epoch(), *source.epoch()]:
            batch.teacher_outputs(
                "rows",
                lambda images, rows, looked=looked: (looked.append(len(rows)) or rows,),  # type: ignore[misc]  # untyped on purpose
            )
        assert sum(looked) == looks


def test_outputs_are_cached_by_name_and_a_batch_without_a_source_is_computed_alone() -> None:
    source = CachedImages(lambda: (torch.ones(4, 1, 2, 2), torch.arange(4)))
    batch = TrainingBatch(torch.ones(2, 1, 2, 2), torch.arange(2), source, torch.tensor([3, 1]))
    assert [
        batch.teacher_outputs(name, lambda images, rows, add=add: (rows + add,))[0].tolist()  # type: ignore[misc]  # untyped on purpose
        for name, add in (("a", 0), ("b", 10))
    ] == [
        [3, 1],
        [13, 11],
    ]
    alone = TrainingBatch(batch.images, batch.rows)
    assert alone.teacher_outputs("a", lambda images, rows: (rows + 20,))[0].tolist() == [20, 21]


def test_the_draws_follow_from_the_seed() -> None:
    def drawn(seed: int) -> Tensor:
        return torch.cat(
            [
                batch.images
                for batch in batches(augmentation=AugmentationConfig(), seed=seed).epoch()
            ]
        )

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_a_batch_of_given_indices_has_those_images() -> None:
    source = batches()
    chosen = torch.tensor([5, 2, 400])
    batch = source.at(chosen)
    assert places_in(batch.images).tolist() == [5, 2, 400]
    assert batch.teacher_outputs("rows", lambda images, rows: (rows,))[0].tolist() == [5, 2, 1]
    assert torch.equal(batch.images, to_unit(source._images[chosen]))
