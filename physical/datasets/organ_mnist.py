"""OrganA/C/S MNIST: eleven organs in axial, coronal or sagittal CT slices, 28 x 28 px.

Made from the Liver Tumor Segmentation benchmark (LiTS): slices around the middle of each organ's
bounding box, abdominal window. No scan, and so no patient, is in two of train, validation and
test. Left and right organs are separate classes: images must not be mirrored. Licence CC BY 4.0.
Home: https://medmnist.com.

The reader and the writer serve any npz file of MedMNIST's form, the phantom's too.
"""

import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physical.datasets.checks import make_batch, read_npz
from physical.datasets.dataset import DataFile, DataSheet, Source, Splits
from physical.datasets.phantom_anatomy import CLASS_NAMES
from physical.datasets.sources import WebFiles, WheelMember

_ADDRESS = "https://zenodo.org/records/10519652/files/{name}.npz?download=1"
_CITATION = (
    "Yang et al., MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image "
    "classification, Scientific Data 10:41, 2023; Bilic et al., The Liver Tumor Segmentation "
    "Benchmark (LiTS), Medical Image Analysis 84:102680, 2023; Xu et al., Efficient multiple organ "
    "localization in CT image using 3D region proposal network, IEEE Transactions on Medical "
    "Imaging 38(8), 2019"
)
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


def _sheet(
    name: str,
    title: str,
    plane: str,
    *,
    file: DataFile,
    counts: tuple[int, int, int],
    mirrors: tuple[Source, ...] = (),
) -> DataSheet:
    return DataSheet(
        name=name,
        title=title,
        source="https://medmnist.com",
        licence="CC BY 4.0",
        citation=_CITATION,
        description=(
            f"Eleven organs in {plane} CT slices from LiTS, cut around the middle of each organ's "
            "bounding box, abdominal window, 28 x 28. "
            "115, 16 and 70 scans in train, validation and test; no scan is in two."
        ),
        class_names=CLASS_NAMES,
        counts=dict(zip(_SPLITS, counts, strict=True)),
        image_size=(28, 28, 1),
        has_left_and_right=True,
        files=(file,),
        sources=(
            WebFiles("MedMNIST's home at zenodo.org", {file.name: _ADDRESS.format(name=name)}),
            *mirrors,
        ),
    )


SHEETS = {
    "organamnist": _sheet(
        "organamnist",
        "OrganAMNIST",
        "axial",
        file=DataFile("organamnist.npz", "68e3f8846a6bd62f0c9bf841c0d9eacc", 38_247_708),
        counts=(34_561, 6_491, 17_778),
        mirrors=(
            WheelMember(
                "kosmos-core==0.6.2",
                "3.13",
                {"organamnist.npz": "kosmos/ml/datasets/data/organamnist.npz"},
            ),
        ),
    ),
    "organcmnist": _sheet(
        "organcmnist",
        "OrganCMNIST",
        "coronal",
        file=DataFile("organcmnist.npz", "b9ceb9546e10131b32923c5bbeaea2b1"),
        counts=(12_975, 2_392, 8_216),
    ),
    "organsmnist": _sheet(
        "organsmnist",
        "OrganSMNIST",
        "sagittal",
        file=DataFile("organsmnist.npz", "9ab87b696fb54e2a387ebe992d6ed5f1"),
        counts=(13_932, 2_452, 8_827),
    ),
}
"""Data sheets by name."""


def read(paths: Mapping[str, Path], sheet: DataSheet) -> Splits:
    """Read one npz file of MedMNIST's form.

    Args:
        paths: Path of the one file, by its name in the sheet; its digest has been checked.
        sheet: Expected content.

    Raises:
        DataError: If keys, types, shapes, labels, classes or counts differ from the sheet.
    """
    path = paths[sheet.files[0].name]
    keys = [f"{prefix}_{kind}" for prefix in _SPLITS.values() for kind in ("images", "labels")]
    arrays = read_npz(path, keys)
    batches = {
        split: make_batch(
            arrays[f"{prefix}_images"], arrays[f"{prefix}_labels"], sheet, split, path
        )
        for split, prefix in _SPLITS.items()
    }
    return Splits(**batches)


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an uncompressed npz file whose bytes depend on the arrays only: no dates, no system.

    Args:
        path: Where to write; the caller passes a temporary name and renames it.
        arrays: Arrays by name, written in this order.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # the same on every system
            member.external_attr = 0o644 << 16
            buffer = BytesIO()
            np.lib.format.write_array(
                buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False
            )
            archive.writestr(member, buffer.getvalue())
