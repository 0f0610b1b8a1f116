from dataclasses import replace

import numpy as np
import pytest

from benchmarks.attacks.membership import DEFENCES, Size, attack, base, groups_of
from benchmarks.attacks.membership_tables import Outcome, defences_table, questions_table
from benchmarks.attacks.observed_run import ObservedRun, run_observed
from benchmarks.attacks.scores import Success
from federation.experiment.config import ExperimentConfig
from incremental.network import NetworkConfig
from physical.batch import Batch
from physical.datasets import entry_of
from physical.datasets.dataset import ImageDataset

SIZE = Size(images_per_class=24, rounds=3, epochs=1, shadows=1, others=5, seeds=(1,))
NAMES = tuple(f"organ-{index}" for index in range(8))


def made_dataset(seed: int) -> ImageDataset:
    rng = np.random.default_rng(seed)

    def batch(count: int) -> Batch:
        labels = np.arange(count) % 8
        images = rng.integers(0, 60, (count, 28, 28, 1)) + 20 * labels[:, None, None, None]
        return Batch(images.astype(np.uint8), labels.astype(np.int64), NAMES)

    sheet = replace(entry_of("organamnist").sheet, class_names=NAMES)
    return ImageDataset(sheet, batch(320), batch(80), batch(80), "md5:made")


def tiny(seed: int) -> ExperimentConfig:
    config = base(SIZE, seed)
    network = NetworkConfig(backbone="lenet", width=4, image_size=28, channels=1)
    return replace(config, network=network, twin=replace(config.twin, memory_capacity=8))


@pytest.fixture(scope="module")
def run() -> ObservedRun:
    return run_observed(tiny(1), made_dataset(1))


def test_every_image_that_was_trained_on_is_in_one_group_and_no_other_image_is(
    run: ObservedRun,
) -> None:
    groups = groups_of(run, 5, seed=1)
    members = np.concatenate([groups.exemplars, groups.archived, groups.current])
    assert sorted(members.tolist()) == run.members.tolist()
    assert len(groups.exemplars) == 4 * 8
    assert len(members) == 8 * 24 - 2 * 4 * 2  # of 24 images of a task each hospital holds two back


def test_others_were_seen_by_no_hospital_and_are_equally_many_of_each_class(
    run: ObservedRun,
) -> None:
    groups = groups_of(run, 5, seed=1)
    arrived = {
        int(each)
        for parts in run.setup.scenario.arrivals.values()
        for part in parts
        for each in part.positions
    }
    labels = run.setup.dataset.train.labels
    for others, names in zip(
        (groups.others_first, groups.others_last), run.setup.scenario.tasks, strict=True
    ):
        assert not arrived & set(others.tolist())
        assert (
            np.bincount(labels[others])[[NAMES.index(name) for name in names]].tolist() == [5] * 4
        )


def test_the_observed_run_learns_like_the_platforms_own(run: ObservedRun) -> None:
    again = run_observed(tiny(1), made_dataset(1))
    assert all(
        bool((run.servers[-1].weights[name] == value).all())
        for name, value in again.servers[-1].weights.items()
    )
    assert len(run.servers) == run.setup.scenario.num_rounds == 6


def test_an_attack_returns_all_its_figures(run: ObservedRun) -> None:
    found = attack(run, [run_observed(tiny(2), made_dataset(2))], SIZE)
    assert set(found.lira) == set(found.loss) == set(found.control)
    assert all(
        0 <= each.auroc <= 1 for each in (*found.lira.values(), *found.loss.values(), found.local)
    )
    assert 0 <= found.attribution <= 1
    assert found.epsilon is None


def test_a_question_without_members_is_left_out() -> None:
    bare = run_observed(
        replace(tiny(1), twin=replace(tiny(1).twin, memory_capacity=0)), made_dataset(1)
    )
    assert "exemplars of the first task" not in groups_of(bare, 5, seed=1).pairs()


def test_every_defence_makes_a_valid_experiment() -> None:
    for change, calibrate in DEFENCES.values():
        assert change(base(SIZE, 1)).seed == calibrate(base(SIZE, 1)).seed == 1


def test_tables_hold_mean_and_deviation_over_seeds() -> None:
    one, other = Success(0.6, 0.02, 0.001), Success(0.8, 0.04, 0.003)
    outcomes = [
        Outcome(
            {"all members": each},
            {"all members": each},
            {"all members": 0.5},
            each,
            0.25,
            0.9,
            None,
        )
        for each in (one, other)
    ]
    assert "0.700 ± 0.141" in questions_table(outcomes)
    assert "3.0 ± 1.4 %" in defences_table({"none": outcomes})
    assert defences_table({"none": outcomes}).splitlines()[2].endswith(" - |")
