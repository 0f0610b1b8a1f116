"""Three hospitals' mirrors with images of stripes, and class addition jobs on them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from federation.class_addition.job import AdditionJob, run_addition
from federation.jobs.runner import run_job
from federation.release.findings import Comparison, read_comparison
from physical.mirror import Mirror, MirrorImage

KNOWN, NEW, SIDE = ("heart", "liver", "spleen"), "pancreas", 16


CONFIG: dict[str, Any] = {
    "rounds": 3,
    "network": {"backbone": "lenet", "width": 4, "image_size": SIDE},
    "training": {
        "epochs": 2,
        "batch_size": 8,
        "augmentation": {"crop_padding_pixels": 0, "brightness": 0.0},
    },
}


def picture(name: str, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Stripes that are lying or standing, narrow or wide: one kind for each class."""
    kind = (*KNOWN, NEW).index(name)
    stripes = np.where(np.arange(SIDE) % (4 if kind % 2 else 8) < (2 if kind % 2 else 4), 200, 40)
    clean = np.tile(stripes, (SIDE, 1))
    noise = np.random.default_rng([kind, number]).normal(0, 25, (SIDE, SIDE))
    return np.clip((clean.T if kind < 2 else clean) + noise, 0, 255).astype(np.uint8)


def images(
    hospital: str, name: str, count: int, named: bool = True, first: int = 0
) -> list[MirrorImage]:
    shift = {"north": 0, "east": 1000, "south": 2000}[hospital]
    return [
        MirrorImage(
            f"{hospital}-{name}-{number}",
            "2024-02-19T08:30:00+00:00",
            f"{hospital}-{number % 5}",
            "study",
            name if named else None,
            picture(name, shift + number),
            "png",
        )
        for number in range(first, first + count)
    ]


@dataclass
class ExampleFederation:
    """Three hospitals' mirrors; two of them have images that nobody named."""

    root: Path

    def fill(self) -> "ExampleFederation":
        for hospital, unnamed in (("north", 24), ("east", 16), ("south", 0)):
            mirror = Mirror(self.root / hospital, SIDE)
            for name in KNOWN:
                mirror.add(images(hospital, name, 24))
            mirror.add(images(hospital, NEW, unnamed, named=False))
            mirror.close()
        return self

    def job(
        self,
        folder: str,
        champion: Path | None,
        approved: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        **more: Any,
    ) -> Path:
        hospitals = [
            {
                "hospital_id": each,
                "mirror": str(self.root / each),
                "new_images": None if champion is None else (approved or {}).get(each, {}),
            }
            for each in ("north", "east", "south")
        ]
        path = self.root / folder
        path.mkdir()
        job = {
            "job_id": folder,
            "champion": champion and str(champion),
            "hospitals": hospitals,
            "config": CONFIG,
            **more,
        }
        (path / "job.json").write_text(json.dumps(job))
        return path

    def approved(self, name: str = NEW) -> dict[str, dict[str, list[str]]]:
        return {
            hospital: {name: [each.image_id for each in images(hospital, NEW, count)]}
            for hospital, count in (("north", 24), ("east", 16))
        }


def run(path: Path) -> dict[str, Any]:
    code = run_job(path / "job.json", AdditionJob, run_addition)
    result: dict[str, Any] = json.loads((path / "result.json").read_text())
    assert (code == 0) is result["ok"]
    return result


def progress(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "progress.jsonl").read_text().splitlines()]


def comparison(path: Path) -> Comparison:
    return read_comparison(path / "comparison.json")[0]
