"""A made-up but realistic run folder.

9 classes in 3 tasks, 8 rounds each, 8 hospitals of which 2 join later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.report import write_report

TASKS = [
    ["bladder", "liver", "spleen"],
    ["femur-left", "heart", "pancreas"],
    ["kidney-left", "kidney-right", "lung-left"],
]
ROUNDS_PER_TASK = 8
HOSPITALS = ["aachen", "bergen", "cork", "delft", "eger", "faro", "gent", "hvar"]
JOINS = {"gent": 1, "hvar": 2}
LEVELS = [[0.941], [0.803, 0.872], [0.744, 0.761, 0.853]]
FORGETTING = 0.1538


def _confusion(per_class: list[float], images: int, rng: np.random.Generator) -> list[list[int]]:
    count = len(per_class)
    rows = []
    for row, accuracy in enumerate(per_class):
        right = round(accuracy * images)
        wrong = rng.multinomial(images - right, rng.dirichlet(np.full(count - 1, 0.5)))
        rows.append([*wrong[:row].tolist(), right, *wrong[row:].tolist(), 0])
    return rows


def _observation(twin: str, index: int, rng: np.random.Generator) -> dict[str, Any]:
    task, inside = divmod(index, ROUNDS_PER_TASK)
    is_boundary = inside == 0 or (inside == 1 and twin == "cork")
    entropy = (
        None
        if index == 0
        else float(
            np.clip(
                (0.68 if is_boundary else 0.42 * 0.82**inside + 0.1) + rng.normal(0, 0.03), 0, 1
            )
        )
    )
    is_missed = twin == "delft" and index == 2 * ROUNDS_PER_TASK
    is_false_alarm = twin == "eger" and index == 13
    if entropy is not None and (is_missed or is_false_alarm):
        entropy = 0.41 if is_missed else 0.6
    return {
        "twin": twin,
        "signal": (is_boundary and not is_missed) or is_false_alarm,
        "entropy": entropy,
        "statistic": entropy,
        "threshold": 0.5,
        "new_class_names": TASKS[task] if is_boundary else [],
        "num_new_images": 120 if is_boundary else 0,
        "is_boundary": is_boundary,
        "knows_nothing": index == 0,
    }


def _round(index: int, rng: np.random.Generator) -> dict[str, Any]:
    task, inside = divmod(index, ROUNDS_PER_TASK)
    present = [twin for twin in HOSPITALS if JOINS.get(twin, 0) <= task]
    chosen = (
        present
        if inside == 0
        else sorted(rng.choice(present, size=max(4, len(present) - 2), replace=False).tolist())
    )
    rejected = (
        [{"twin": chosen[1], "reason": "norm 412.7 is above the limit of 100"}]
        if index in (5, 14)
        else []
    )
    silent = chosen[-1:] if index == 19 else []
    accepted = [
        twin
        for twin in chosen
        if twin not in silent and twin not in [entry["twin"] for entry in rejected]
    ]
    fit = 1.4 * 0.75**inside + 0.12 + float(rng.normal(0, 0.01))
    losses = {
        "classification": fit,
        "semantic": 0.4 * fit * (task > 0),
        "attention": 0.05 * fit * (task > 0),
    }
    end = sum(LEVELS[task]) / (task + 1)
    start = 0.25 if task == 0 else 0.55
    return {
        "kind": "round",
        "round": index,
        "task": task,
        "seconds": 3.2 + 0.1 * len(accepted),
        "chosen": chosen,
        "accepted": accepted,
        "rejected": rejected,
        "grew": TASKS[task] if inside == 0 else [],
        "num_classes": 3 * (task + 1),
        "losses": {**losses, "total": sum(losses.values())},
        "observations": [_observation(twin, index, rng) for twin in present],
        "proxy_score": 0.8,
        "best_round": index,
        "accuracy": end - (end - start) * 0.6**inside if inside < ROUNDS_PER_TASK - 1 else end,
        "macro_f1": None,
        "images_trained": 240 * len(accepted),
        "megabytes_up": 4.4 * len(accepted),
        "megabytes_down": 8.8 * len(chosen),
    }


def _task(task: int, rng: np.random.Generator) -> dict[str, Any]:
    seen = [name for names in TASKS[: task + 1] for name in names]
    per_class = [
        float(np.clip(LEVELS[task][place // 3] + (-0.06, 0.05, 0.01)[place % 3], 0, 1))
        for place in range(len(seen))
    ]
    accuracy = sum(LEVELS[task]) / (task + 1)
    return {
        "kind": "task",
        "task": task,
        "round": (task + 1) * ROUNDS_PER_TASK - 1,
        "seen_classes": seen,
        "accuracy": accuracy,
        "macro_f1": accuracy - 0.017,
        "per_class_accuracy": dict(zip(seen, per_class, strict=True)),
        "accuracy_row": LEVELS[task],
        "confusion": _confusion(per_class, 200, rng),
        "forgetting": (None, 0.138, FORGETTING)[task],
    }


def _model(task: int) -> dict[str, Any]:
    return {
        "kind": "model",
        "task": task,
        "folder": f"models/task-{task}",
        "round": (task + 1) * ROUNDS_PER_TASK - 2,
        "score": 0.81,
        "digest": "sha256:" + "4f" * 32,
        "test_accuracy": sum(LEVELS[task]) / (task + 1),
    }


def _write(folder: Path) -> Path:
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    digest = "sha256:" + "c0ffee" * 10
    config = {
        "method": {"name": "fedka", "semantic_weight": 0.5, "attention_weight": 0.1},
        "seed": 2024,
        "config_digest": digest,
        "scenario": {"dataset": "organamnist", "num_tasks": 3},
        "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.01},
    }
    hospitals = {
        twin: {
            "joins_at_task": JOINS.get(twin, 0),
            "classes_by_task": [
                names if task >= JOINS.get(twin, 0) else [] for task, names in enumerate(TASKS)
            ],
            "images_by_task": [360 if task >= JOINS.get(twin, 0) else 0 for task in range(3)],
        }
        for twin in HOSPITALS
    }
    environment = {
        "code_version": "0.3.0+g1a2b3c4",
        "packages": {"torch": "2.7.1", "numpy": "2.2.6"},
        "platform": "Linux-6.1-x86_64",
        "cpu": "AMD EPYC 7B13",
        "threads": 2,
    }
    rounds = [_round(index, rng) for index in range(3 * ROUNDS_PER_TASK)]
    lines: list[dict[str, Any]] = []
    for record in rounds:
        lines.append(record)
        if (record["round"] + 1) % ROUNDS_PER_TASK == 0:
            lines += [_task(record["task"], rng), _model(record["task"])]
        if record["round"] == 10:
            lines += [
                {"kind": "event", "round": 10, "what": "interrupted by the user"},
                {"kind": "event", "round": 11, "what": "resumed"},
            ]
    results = {
        "method": "fedka",
        "seed": 2024,
        "average_accuracy": 0.8548,
        "last_accuracy": 0.786,
        "macro_f1": 0.769,
        "forgetting": FORGETTING,
        "accuracy_matrix": LEVELS,
        "seconds": 3723.4,
        "images_trained": sum(record["images_trained"] for record in rounds),
        "config_digest": digest,
        "code_version": environment["code_version"],
    }
    parts = {
        "config": config,
        "manifest": {"tasks": TASKS, "hospitals": hospitals, "overlap": {}},
        "environment": environment,
        "results": results,
    }
    for name, part in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
    (folder / "records.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    _write_examples(folder / "examples", rng)
    return folder


def _write_examples(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(exist_ok=True)
    across, down = np.meshgrid(np.linspace(-1, 1, 28), np.linspace(-1, 1, 28))
    body = 70 * ((across / 0.9) ** 2 + (down / 0.7) ** 2 < 1)
    centres = rng.uniform(-0.4, 0.4, size=(4, 2))
    organs = [120 * np.exp(-((across - x) ** 2 + (down - y) ** 2) / 0.06) for x, y in centres]
    images = np.stack(
        [np.clip(body + organ + rng.normal(0, 6, body.shape), 0, 255) for organ in organs]
    ).astype(np.uint8)[..., np.newaxis]
    coarse = np.stack([organ.reshape(7, 4, 7, 4).mean(axis=(1, 3)) for organ in organs])
    np.savez(
        folder / "attention.npz",
        images=images,
        teacher=coarse,
        student=0.5 * coarse + 8 * rng.random(coarse.shape),
        class_names=np.array(["liver", "spleen", "bladder", "pancreas"]),
    )


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    # Drawn once for all tests that only read it.
    return write_report(_write(tmp_path_factory.mktemp("finished") / "organ-fedka-2024")).read_text(
        encoding="utf-8"
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return _write(tmp_path / "organ-fedka-2024")
