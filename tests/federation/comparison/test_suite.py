from collections.abc import Callable
from typing import Any

import pytest

from federation.comparison.published import PUBLISHED
from federation.comparison.suite import SuiteError, find_suite, load_suite, preset_names
from federation.experiment.config_file import ConfigError
from federation.methods.ablations import ABLATIONS

PAPER = [f"table{number}" for number in range(2, 12)]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_and_is_fair(name: str) -> None:
    suite = load_suite(find_suite(name))
    assert len(suite.configs) == len(suite.config.experiments) * len(suite.config.cells)


def test_there_is_a_preset_for_each_table_and_for_the_processor() -> None:
    assert {*PAPER, "organa_cpu", "cifar100_cpu"} <= set(preset_names())


@pytest.mark.parametrize("name", PAPER)
def test_every_published_row_of_a_table_has_its_cell(name: str) -> None:
    config = load_suite(find_suite(name)).config
    assert config.fills == name
    assert [experiment.block for experiment in config.experiments] == list(PUBLISHED[name].blocks)
    for experiment in config.experiments:
        assert all(config.published(experiment, cell) for cell in config.cells)
        assert {cell.published or cell.label for cell in config.cells} == set(
            PUBLISHED[name].blocks[experiment.block]
        )


@pytest.mark.parametrize("name", ["organa_cpu", "cifar100_cpu"])
def test_the_processor_suites_have_both_bounds_every_ablation_and_say_what_is_smaller(
    name: str,
) -> None:
    suite = load_suite(find_suite(name))
    labels = [cell.label for cell in suite.config.cells]
    assert {"finetune", "joint", "analytic", "FedKA"} <= set(labels) and len(labels) == 14
    assert len(suite.config.shrinkage) > 100 and suite.config.expected_order[0] == "finetune"
    methods = {label: config.method for (_, label), config in suite.configs.items()}
    names = {
        "FedKA(w/oCBL)": "wo_cbl",
        "FedKA(w/oSDL)": "wo_sdl",
        "FedKA(w/oADL)": "wo_adl",
        "FedKA(w/oWADL)": "wo_wadl",
    }
    for label, ablation in names.items():
        assert vars(methods[label]) == {**vars(methods["FedKA"]), **ABLATIONS[ablation]}


def test_the_joint_bound_is_one_hospital_with_every_class_and_a_memory_without_limit() -> None:
    config = next(
        config
        for (_, label), config in load_suite(find_suite("organa_cpu")).configs.items()
        if label == "joint"
    )
    assert (
        len(config.hospitals) == 1
        and config.scenario.heterogeneity == 1
        and config.scenario.keep_fraction == 0
    )
    assert config.method.replays and config.twin.memory_capacity == 10**9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"refrence": "FedKA"},
            r"tiny.yaml: refrence is not a known key; known: .*Did you mean 'reference'\?",
        ),
        (
            {"cells": [{"label": "a", "methd": "fedavg"}]},
            r"cells.0.methd is not a known key; .*Did you mean 'method'\?",
        ),
        (
            {"experiments": [{"foldr": "x"}]},
            r"experiments.0.foldr is not a known key; .*Did you mean 'folder'\?",
        ),
        (
            {"reference": "FedKa"},
            r"reference names 'FedKa'; known: finetune, FedKA, joint. Did you mean 'FedKA'\?",
        ),
        ({"seeds": [1, 1]}, "seeds is"),
        ({"cells": []}, "cells has no entry"),
        ({"fills": "table4", "metric": "macro_f1"}, "which prints accuracy"),
        ({"fills": "table10"}, "block of phantom_tiny is ''; table10 has '0.4'"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said(
    write_suite: Callable[..., Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_suite(write_suite(**change))


def test_an_unknown_method_names_its_cell_and_the_known_ones(
    write_suite: Callable[..., Any],
) -> None:
    cells = [{"label": "FedKA", "method": "fedkaa"}]
    with pytest.raises(
        SuiteError,
        match=r"tiny.yaml, phantom_tiny, FedKA: .*'fedkaa'; known: .*Did you mean 'fedka'\?",
    ):
        load_suite(write_suite(cells=cells, expected_order=[]))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("twin.memory_capacity=61", "exemplars per twin is 61 and 60 for FedKA"),
        ("training.epochs=2", "epochs per round is 2 and 1 for FedKA"),
        ("scenario.rounds_per_task=4", "rounds per task is 4 and 3 for FedKA"),
        ("federation.twins_per_round=2", "twins per round is 2 and 3 for FedKA"),
        ("network.width=4", "network is"),
        ("scenario.images_per_class=9", "images is"),
    ],
)
def test_unequal_budgets_are_refused_unless_the_cell_says_why(
    write_suite: Callable[..., Any], change: str, what: str
) -> None:
    cell = {"label": "other", "method": "fedavg", "changes": [change]}
    with pytest.raises(SuiteError, match=rf"budget of other differs: {what}.*budget_differs"):
        load_suite(
            write_suite(cells=[{"label": "FedKA", "method": "fedka"}, cell], expected_order=[])
        )
    excused = [{"label": "FedKA", "method": "fedka"}, {**cell, "budget_differs": "to show it"}]
    assert len(load_suite(write_suite(cells=excused, expected_order=[])).configs) == 2


def test_a_learning_rate_of_its_own_is_no_budget(write_suite: Callable[..., Any]) -> None:
    cells = [
        {"label": "FedKA", "method": "fedka"},
        {"label": "b", "method": "fedavg", "changes": ["training.learning_rate=0.1"]},
    ]
    assert (
        load_suite(write_suite(cells=cells, expected_order=[]))
        .configs["phantom_tiny", "b"]
        .training.learning_rate
        == 0.1
    )


def test_changes_of_the_command_line_reach_every_cell(write_suite: Callable[..., Any]) -> None:
    suite = load_suite(write_suite(), ["network.width=4"])
    assert {config.network.width for config in suite.configs.values()} == {4} and suite.changes == (
        "network.width=4",
    )


def test_an_unknown_suite_is_one_clear_error() -> None:
    with pytest.raises(
        SuiteError, match=r"suite is 'tabel2'; presets: table2, .*Did you mean 'table2'\?"
    ):
        find_suite("tabel2")
    with pytest.raises(SuiteError, match=r"nowhere.yaml does not exist"):
        find_suite("nowhere.yaml")
