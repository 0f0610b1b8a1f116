"""A comparison of two methods with two seeds on made images, run once.

And outcomes without any run.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.comparison.cells import Run, plan_runs
from federation.comparison.outcomes import Block, collect
from federation.comparison.runner import run_missing
from federation.comparison.suite import Suite, load_suite

TINY = Path(__file__).parents[3] / "hospital_configs" / "phantom_tiny"
SEEDS = (1, 2)


def tiny_suite(**more: Any) -> dict[str, Any]:
    fedka = {
        "name": "fedka",
        "head_loss": "ce",
        "reconstruction": {"perturb_steps": 2, "invert_steps": 5},
    }
    return {
        "title": "Two methods",
        "reference": "FedKA",
        "shrinkage": "made images, a LeNet",
        "seeds": list(SEEDS),
        "expected_order": ["finetune", "FedKA", "joint"],
        "experiments": [
            {"folder": str(TINY), "changes": ["training.epochs=1", "evaluation.round_images=0"]}
        ],
        "cells": [
            {"label": "finetune", "method": "fedavg"},
            {"label": "FedKA", "method": fedka},
            {
                "label": "joint",
                "method": {"name": "fedavg", "memory": True},
                "changes": [
                    "hospitals=[{name: everywhere}]",
                    "scenario.keep_fraction=0.0",
                    "twin.memory_capacity=1000000000",
                ],
                "budget_differs": "the upper bound",
            },
        ],
        **more,
    }


@pytest.fixture
def write_suite(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny suite with some keys changed."""

    def write(**more: Any) -> Path:
        place = tmp_path / "tiny.yaml"
        place.write_text(yaml.safe_dump(tiny_suite(**more)))
        return place

    return write


@pytest.fixture(scope="session")
def compared(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Suite, Sequence[Run], tuple[Block, ...], Path]:
    """A suite of which ``finetune`` and ``FedKA`` have been run and ``joint`` has not."""
    out = tmp_path_factory.mktemp("compare")
    place = out / "tiny.yaml"
    place.write_text(yaml.safe_dump(tiny_suite()))
    suite = load_suite(place)
    assert run_missing(plan_runs(suite, SEEDS, out, ["finetune", "FedKA"])) == 0
    runs = plan_runs(suite, SEEDS, out)
    return suite, runs, collect(suite, runs), out
