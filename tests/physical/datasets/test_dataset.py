import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from physical.batch import Batch
from physical.datasets import DATASETS, DataError, ImageDataset, entry_of, load_dataset
from physical.datasets.dataset import (
    DataFile,
    DataSheet,
    Splits,
    digest_of,
    empty_batch,
    hold_out_validation,
)


def _splits(sheet: DataSheet, per_class: int = 20) -> Splits:
    labels = np.repeat(np.arange(2), per_class)
    images = np.arange(2 * per_class, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 4, 4, 1), dtype=np.uint8
    )
    train = Batch(images, labels, sheet.class_names)
    return Splits(train, empty_batch(sheet), empty_batch(sheet))


def test_held_out_images_are_a_tenth_of_each_class_and_leave_train(
    sheet_of: Callable[..., Any],
) -> None:
    parts = hold_out_validation(_splits(sheet_of(())))
    assert np.bincount(parts.validation.labels).tolist() == [2, 2]
    assert np.bincount(parts.train.labels).tolist() == [18, 18]
    seen = np.concatenate([parts.train.images[:, 0, 0, 0], parts.validation.images[:, 0, 0, 0]])
    assert sorted(seen.tolist()) == list(range(40))


def test_held_out_images_are_the_same_every_time(sheet_of: Callable[..., Any]) -> None:
    first, second = (hold_out_validation(_splits(sheet_of(()))) for _ in range(2))
    assert np.array_equal(first.validation.images, second.validation.images)


def test_class_with_one_image_keeps_it_in_train(sheet_of: Callable[..., Any]) -> None:
    parts = hold_out_validation(_splits(sheet_of(()), per_class=1))
    assert len(parts.train) == 2
    assert len(parts.validation) == 0


def test_official_validation_part_is_left_alone(sheet_of: Callable[..., Any]) -> None:
    splits = _splits(sheet_of(()))
    splits = Splits(splits.train, splits.train.take(np.arange(3)), splits.test)
    assert hold_out_validation(splits) is splits


def test_digest_of_one_file_is_its_own_and_of_several_that_of_their_list() -> None:
    one, two = DataFile("a", "0" * 32, 1), DataFile("b", "1" * 32, 1)
    assert digest_of([one]) == "md5:" + "0" * 32
    listing = f"a {'0' * 32}\nb {'1' * 32}\n".encode()
    assert digest_of([one, two]) == "md5:" + hashlib.md5(listing, usedforsecurity=False).hexdigest()


def test_parts_with_another_vocabulary_are_refused(sheet_of: Callable[..., Any]) -> None:
    sheet = sheet_of(())
    wrong = Batch(np.zeros((0, 4, 4, 1), dtype=np.uint8), np.zeros(0, dtype=np.int64), ("owl",))
    with pytest.raises(DataError, match="vocabulary"):
        ImageDataset(sheet, wrong, empty_batch(sheet), empty_batch(sheet), "md5:0")


def test_unknown_name_is_answered_with_a_suggestion() -> None:
    with pytest.raises(
        DataError,
        match=r"got 'OrganAMNST'; expected one of organamnist, .*; did you mean 'organamnist'\?",
    ):
        entry_of("OrganAMNST")
    with pytest.raises(DataError, match="choose one of these"):
        entry_of("qqq")


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_sheet_is_whole(name: str) -> None:
    sheet = DATASETS[name].sheet
    assert sheet.name == name
    assert all(
        (
            sheet.title,
            sheet.source,
            sheet.licence,
            sheet.citation,
            sheet.description,
            sheet.files,
            sheet.sources,
        )
    )
    assert set(sheet.counts) == {"train", "validation", "test"}
    assert len(set(sheet.class_names)) == len(sheet.class_names)
    assert all(len(file.md5) == 32 for file in sheet.files)


@pytest.mark.parametrize("name", ["organamnist", "organcmnist", "organsmnist"])
def test_organ_sheets_agree_with_the_medmnist_package(name: str) -> None:
    import runpy
    from importlib.util import find_spec
    from pathlib import Path

    # the file of facts alone: importing the package would load torch and more
    spec = find_spec("medmnist")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    facts = runpy.run_path(str(Path(spec.submodule_search_locations[0]) / "info.py"))["INFO"][name]
    sheet = DATASETS[name].sheet
    assert sheet.class_names == tuple(
        facts["label"][str(label)] for label in range(len(facts["label"]))
    )
    assert list(sheet.counts.values()) == [
        facts["n_samples"][split] for split in ("train", "val", "test")
    ]
    assert sheet.files[0].md5 == facts["MD5"]
    assert sheet.licence == facts["license"]


def test_a_missing_data_set_is_not_downloaded_without_permission() -> None:
    with pytest.raises(DataError, match="fedka data fetch organcmnist"):
        load_dataset("organcmnist", fetch=False)
