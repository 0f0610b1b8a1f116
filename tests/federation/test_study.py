import numpy as np
import pytest

from federation.config import load_experiment
from federation.study import prepare_study


@pytest.fixture(scope="module", params=["disjoint", "shared"])
def study(request):
    from pathlib import Path

    folder = Path(__file__).parents[2] / "hospital_configs" / "phantom_tiny"
    alpha = "0.1" if request.param == "disjoint" else "null"
    changes = [f"scenario.images={request.param}", f"scenario.dirichlet_alpha={alpha}", "scenario.arrivals_per_task=3"]
    return prepare_study(load_experiment(folder, changes))


def test_the_truth_about_arrivals_is_that_of_the_labels(study):
    labels, vocabulary = study.dataset.train.labels, study.dataset.train.vocabulary
    answers = []
    for twin_id, plan in study.scenario.hospitals.items():
        for round_number in range(study.scenario.num_rounds):
            arrived = [each.positions for each in plan.arrivals if each.round <= round_number]
            names = {vocabulary[label] for label in np.unique(labels[np.concatenate([np.empty(0, int), *arrived])])}
            for known in ((), ("liver",), ("liver", "lung-left"), ("liver", "lung-left", "heart", "bladder")):
                answers.append(study.unknown_arrived(twin_id, round_number, known))
                assert answers[-1] == bool(names - set(known))
    assert len(set(answers)) == 2


def test_the_ward_makes_arrivals_when_they_are_asked_for(study):
    ward = study.ward()
    for twin_id, plan in study.scenario.hospitals.items():
        for mine, theirs in zip(ward.arrivals[twin_id], plan.arrivals, strict=True):
            assert mine.round == theirs.round and np.array_equal(mine.positions, theirs.positions)
    assert list(ward.arrivals) == list(ward.joins) and len(ward.arrivals) == 4
