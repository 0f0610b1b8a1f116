"""Saves and loads one hospital's images and arrival plan as a single safetensors file.

The file is written under a temporary name and renamed, so it is never half written.
"""

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from physical.batch import Batch
from physical.hospital import Arrival, Hospital

_VERSION = "1"


class ArchiveError(ValueError):
    """Raised when an archive file cannot be read; says what, got and what to do."""


def save_archive(
    path: Path, archive: Batch, arrivals: Sequence[Arrival], joins_at_round: int = 0
) -> Path:
    """Write the images that reach one hospital, and no others.

    Positions are renumbered from 0 in their old order, so ties are broken as before.

    Args:
        path: Where to write; only the owner may read the file.
        archive: Images that the arrivals refer to; may also hold other hospitals' images.
        arrivals: Arrivals of this hospital, in order of time.
        joins_at_round: First round in which the hospital takes part.
    """
    used = np.unique(
        np.concatenate([np.empty(0, np.int64), *(each.positions for each in arrivals)])
    )
    own = archive.take(used)
    ends = np.cumsum([len(each.positions) for each in arrivals], dtype=np.int64)
    tensors: dict[str, NDArray[Any]] = {
        "images": np.ascontiguousarray(own.images),
        "labels": np.ascontiguousarray(own.labels),
        "arrival_rounds": np.array([each.round for each in arrivals], np.int64),
        "arrival_ends": ends,
        "arrived": np.concatenate(
            [np.empty(0, np.int64), *(np.searchsorted(used, each.positions) for each in arrivals)]
        ),
    }
    metadata = {
        "version": _VERSION,
        "vocabulary": json.dumps(archive.vocabulary),
        "joins_at_round": str(joins_at_round),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata)
    temporary.chmod(0o600)
    temporary.replace(path)
    return path


def load_hospital(hospital_id: str, path: Path) -> Hospital:
    """Return the hospital that an archive file describes.

    Raises:
        ArchiveError: If the file is missing, damaged or of another version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())  # safe_open's handle is not iterable
            tensors = {name: file.get_tensor(name) for name in names}
        if metadata.get("version") != _VERSION:
            raise ArchiveError(
                f"{path.name} is an archive of version {metadata.get('version')}; "
                f"this program reads {_VERSION}; make it anew"
            )
        archive = Batch(
            tensors["images"], tensors["labels"], tuple(json.loads(metadata["vocabulary"]))
        )
        bounds = [0, *tensors["arrival_ends"].tolist()]
        parts = [tensors["arrived"][start:end] for start, end in pairwise(bounds)]
        if bounds[-1] != len(tensors["arrived"]) or any(
            len(part) and not 0 <= part.min() <= part.max() < len(archive) for part in parts
        ):
            raise ArchiveError(
                f"{path.name}: arrivals point outside its {len(archive)} images; make the file anew"
            )
        arrivals = [
            Arrival(int(arrival_round), part)
            for arrival_round, part in zip(tensors["arrival_rounds"], parts, strict=True)
        ]
        return Hospital(hospital_id, archive, arrivals, int(metadata["joins_at_round"]))
    except ArchiveError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArchiveError(
            f"{path.name} cannot be read as a hospital's archive: {error}; "
            "make it anew with: fedka deploy init"
        ) from error
