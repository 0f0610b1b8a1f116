"""A hospital's archive and stream as one file.

Its images, their class names, and what arrives when.

Written whole or not at all as safetensors, which hold arrays and nothing that runs.
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
    """An archive file that cannot be read: what, got, what to do."""


def save_archive(
    path: Path, archive: Batch, arrivals: Sequence[Arrival], joins_at_round: int = 0
) -> Path:
    """Write what one hospital will see, and nothing else of the archive.

    Positions are counted anew from 0 in their old order, so whatever breaks a tie by position
    breaks it as before.

    Args:
        path: Of the file; readable by its owner alone.
        archive: Images that the arrivals refer to; may hold others'.
        arrivals: Of the hospital, in order of time.
        joins_at_round: First round in which it answers.
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
    plain = {
        "version": _VERSION,
        "vocabulary": json.dumps(archive.vocabulary),
        "joins_at_round": str(joins_at_round),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, beside, plain)
    beside.chmod(0o600)
    beside.replace(path)
    return path


def load_hospital(hospital_id: str, path: Path) -> Hospital:
    """Return the hospital of an archive file.

    Raises:
        ArchiveError: If the file is missing, damaged, or not one of these.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            plain = file.metadata() or {}
            names = file.keys()  # no mapping: it has nothing but keys()
            tensors = {name: file.get_tensor(name) for name in names}
        if plain.get("version") != _VERSION:
            raise ArchiveError(
                f"{path.name} is an archive of version {plain.get('version')}; this program reads "
                f"{_VERSION}; make it anew"
            )
        archive = Batch(
            tensors["images"], tensors["labels"], tuple(json.loads(plain["vocabulary"]))
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
            Arrival(int(at), part)
            for at, part in zip(tensors["arrival_rounds"], parts, strict=True)
        ]
        return Hospital(hospital_id, archive, arrivals, int(plain["joins_at_round"]))
    except ArchiveError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArchiveError(
            f"{path.name} cannot be read as a hospital's archive: {error}; make it anew with: "
            "fedka deploy init"
        ) from error
