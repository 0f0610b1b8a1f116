from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.engines.choice import EngineConfig
from federation.experiment.config import load_experiment
from federation.experiment.setup import ExperimentSetup, prepare_experiment
from federation.methods.fedavg import FedAvg
from incremental.device import DeviceError
from twin.privacy.private_training import PrivateTraining

CONFIGS = Path(__file__).parents[3] / "hospital_configs"


@pytest.fixture(scope="module", params=["disjoint", "shared"])
def setup(request: Any) -> ExperimentSetup:
    folder = CONFIGS / "phantom_tiny"
    alpha = "0.1" if request.param == "disjoint" else "null"
    changes = [
        f"scenario.images={request.param}",
        f"scenario.dirichlet_alpha={alpha}",
        "scenario.arrivals_per_task=3",
    ]
    return prepare_experiment(load_experiment(folder, changes))


def test_the_truth_about_arrivals_is_that_of_the_labels(setup: ExperimentSetup) -> None:
    labels, vocabulary = setup.dataset.train.labels, setup.dataset.train.vocabulary
    answers = []
    for twin_id, plan in setup.scenario.hospitals.items():
        for round_number in range(setup.scenario.num_rounds):
            arrived = [each.positions for each in plan.arrivals if each.round <= round_number]
            names = {
                vocabulary[label]
                for label in np.unique(labels[np.concatenate([np.empty(0, int), *arrived])])
            }
            for known in (
                (),
                ("liver",),
                ("liver", "lung-left"),
                ("liver", "lung-left", "heart", "bladder"),
            ):
                answers.append(setup.unknown_arrived(twin_id, round_number, known))
                assert answers[-1] == bool(names - set(known))
    assert len(set(answers)) == 2


def test_the_ward_makes_arrivals_when_they_are_asked_for(setup: ExperimentSetup) -> None:
    hospitals = setup.hospitals()
    for twin_id, plan in setup.scenario.hospitals.items():
        for mine, theirs in zip(hospitals.arrivals[twin_id], plan.arrivals, strict=True):
            assert mine.round == theirs.round and np.array_equal(mine.positions, theirs.positions)
    assert list(hospitals.arrivals) == list(hospitals.joins) and len(hospitals.arrivals) == 4


def test_networks_run_where_the_engine_says_and_private_training_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    demo = load_experiment(CONFIGS / "organa_demo")
    own = replace(
        demo.training,
        precision="float32",
        private=PrivateTraining(noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-4),
    )
    private = replace(
        demo, training=own, network=replace(demo.network, norm="group"), method=FedAvg()
    )
    on_gpu = EngineConfig(device="cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert demo.device.type == private.device.type == "cpu"
    with pytest.raises(DeviceError, match="torch finds no GPU"):
        _ = replace(demo, engine=on_gpu).device
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert demo.device.type == "cuda"
    assert private.device.type == "cpu"
    with pytest.raises(DeviceError, match="training is private"):
        _ = replace(private, engine=on_gpu).device


def test_a_result_of_another_device_is_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = load_experiment(CONFIGS / "organa_demo")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    here = demo.digest()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert demo.digest() != here
    assert replace(demo, engine=EngineConfig(device="cpu")).digest() == here
