"""A made run folder that grows as that of an experiment does."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from incremental.head import grow_head
from incremental.model_file import save_model
from incremental.network import NetworkConfig, initial_weights

ORGANS = ("liver", "spleen", "heart", "bladder")


MEASURED = {"round/accuracy", "loss/total", "detection/hit", "entropy/north", "round/num_rejected"}


def round_record(number: int, task: int) -> dict[str, Any]:
    north = {
        "twin": "north",
        "signal": number == 1,
        "entropy": 0.5 + number / 10,
        "statistic": 0.2,
        "threshold": 0.1,
    }
    south = {
        "twin": "south",
        "signal": number == 0,
        "entropy": None,
        "statistic": None,
        "threshold": 0.1,
    }
    return {
        "kind": "round",
        "round": number,
        "task": task,
        "seconds": 2.0,
        "chosen": ["north", "south"],
        "accepted": ["north"],
        "rejected": [{"twin": "south", "reason": "not finite"}],
        "grew": [],
        "num_classes": 2 + 2 * task,
        "losses": {"total": 1.0 / (number + 1)},
        "observations": [
            {
                **north,
                "is_boundary": number == 1,
                "new_class_names": ["heart"],
                "num_new_images": 7,
            },
            {**south, "is_boundary": False, "new_class_names": [], "num_new_images": 0},
        ],
        "proxy_score": None,
        "accuracy": 0.5 + number / 10,
        "macro_f1": 0.4,
        "images_trained": 100,
        "megabytes_up": 1.5,
        "megabytes_down": 2.5,
    }


def task_record(task: int) -> dict[str, Any]:
    names = list(ORGANS[: 2 + 2 * task])
    return {
        "kind": "task",
        "task": task,
        "round": task,
        "seen_classes": names,
        "accuracy": 0.7,
        "macro_f1": 0.6,
        "per_class_accuracy": dict.fromkeys(names, 0.7),
        "accuracy_row": [0.7] * (task + 1),
        "confusion": [[3] * (len(names) + 1) for _ in names],
        "forgetting": None if task == 0 else 0.1,
    }


@dataclass(frozen=True)
class ExampleRun:
    """A run folder that a test fills step by step, as an experiment does."""

    folder: Path
    network: NetworkConfig

    def begin(self) -> None:
        self.folder.mkdir(parents=True)
        config = {
            "name": "made",
            "seed": 1,
            "method": {"name": "fedka", "weight": 0.5},
            "hospitals": [{"id": "h" * 7000}],
        }
        self.write("config.json", {**config, "tracking": {}})
        self.write("manifest.json", {"tasks": [ORGANS[:2], ORGANS[2:]]})
        self.write("environment.json", {"code_version": "abc"})

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(value))

    def append(self, record: Mapping[str, Any]) -> None:
        with (self.folder / "records.jsonl").open("a") as lines:
            lines.write(json.dumps(record) + "\n")

    def keep_model(self, task: int, seed: int = 1) -> None:
        names = ORGANS[: 2 + 2 * task]
        weights = grow_head(
            initial_weights(self.network, seed), len(names), torch.Generator().manual_seed(seed)
        )
        facts = {"round": task, "score": None, "test_accuracy": 0.7}
        digest = save_model(
            self.folder / "models" / f"task-{task}", weights, self.network, names, facts
        )
        self.append(
            {
                "kind": "model",
                "task": task,
                "digest": digest,
                "folder": f"models/task-{task}",
                **facts,
            }
        )

    def end(self) -> None:
        self.write("results.json", {"last_accuracy": 0.7})
        (self.folder / "report.html").write_text("<html></html>")
        (self.folder / "examples").mkdir()
        np.savez(
            self.folder / "examples" / "attention.npz", images=np.zeros((2, 16, 16, 3), np.uint8)
        )

    def whole(self) -> None:
        self.begin()
        for task in (0, 1):
            self.append(round_record(task, task))
            self.append(task_record(task))
            self.keep_model(task)
        self.end()


def upload_state_of(run: ExampleRun) -> dict[str, Any]:
    return dict(json.loads((run.folder / "mlflow.json").read_text()))
