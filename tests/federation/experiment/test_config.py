from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from federation.experiment.config import from_plain, load_experiment
from federation.experiment.config_file import ConfigError

CONFIGS = Path(__file__).parents[3] / "hospital_configs"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Any]:
    raw = yaml.safe_load((CONFIGS / "organa_demo" / "experiment.yaml").read_text())

    def write(**sections: Any) -> Path:
        changed = {
            name: {**raw.get(name, {}), **value} if isinstance(value, dict) else value
            for name, value in sections.items()
        }
        (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({**raw, **changed}))
        return tmp_path

    return write


@pytest.mark.parametrize(
    "folder", sorted(path.parent.name for path in CONFIGS.glob("*/experiment.yaml"))
)
def test_every_shipped_experiment_loads_and_comes_back_from_its_own_record(folder: str) -> None:
    config = load_experiment(CONFIGS / folder)
    assert from_plain(config.as_plain()) == config
    assert from_plain(config.as_plain()).digest() == config.digest()


def test_the_paper_presets_have_the_papers_population_and_threshold() -> None:
    config = load_experiment(CONFIGS / "cifar100_t10_paper")
    assert len(config.hospitals) == 75
    assert config.twin.detection.jump_nats(10) == pytest.approx(1.2, abs=1e-3)
    assert load_experiment(CONFIGS / "organa_paper").twin.detection.jump_nats(6) == pytest.approx(
        0.4, abs=1e-3
    )


TYPOS = {
    "top": ({"trainning": {}}, "trainning", "training"),
    "scenario": ({"scenario": {"heterogenity": 0.5}}, "scenario.heterogenity", "heterogeneity"),
    "hospitals": ({"hospitals": {"inital": 3, "initial": 3}}, "inital", "initial"),
    "network": ({"network": {"widht": 3}}, "network.widht", "width"),
    "method": ({"method": {"semantic_wieght": 1}}, "semantic_wieght", "semantic_weight"),
    "method.reconstruction": (
        {"method": {"reconstruction": {"invert_step": 3}}},
        "invert_step",
        "invert_steps",
    ),
    "training": ({"training": {"epoch": 1}}, "training.epoch", "epochs"),
    "training.augmentation": (
        {"training": {"augmentation": {"horizontal_flipp": True}}},
        "horizontal_flipp",
        "horizontal_flip",
    ),
    "twin": ({"twin": {"memory_capcity": 3}}, "twin.memory_capcity", "memory_capacity"),
    "twin.detection": (
        {"twin": {"detection": {"rules": "calibrated"}}},
        "twin.detection.rules",
        "rule",
    ),
    "federation": (
        {"federation": {"twins_per_rounds": 3}},
        "federation.twins_per_rounds",
        "twins_per_round",
    ),
    "federation.screening": (
        {"federation": {"screening": {"max_relative_chance": 3}}},
        "max_relative_chance",
        "max_relative_change",
    ),
    "proxy": ({"proxy": {"techer": "proxy"}}, "proxy.techer", "teacher"),
    "engine": ({"engine": {"thread": 3}}, "engine.thread", "threads"),
    "evaluation": ({"evaluation": {"splitt": "test"}}, "evaluation.splitt", "split"),
    "tracking": ({"tracking": {"urii": "x"}}, "tracking.urii", "uri"),
}


@pytest.mark.parametrize("level", TYPOS)
def test_a_typo_at_any_level_is_an_error_that_suggests_the_right_key(
    write: Any, level: Any
) -> None:
    sections, wrong, right = TYPOS[level]
    with pytest.raises(ConfigError) as caught:
        load_experiment(cast(Any, cast(Any, write(**sections))))  # type: ignore[arg-type]  # wrong on purpose
    assert wrong in str(caught.value)
    assert f"Did you mean '{right}'?" in str(caught.value)


BAD_VALUES = {
    "heterogeneity 0": ({"scenario": {"heterogeneity": 0}}, "heterogeneity is 0"),
    "heterogeneity above 1": ({"scenario": {"heterogeneity": 1.5}}, "heterogeneity is 1.5"),
    "heterogeneity that leaves no class": (
        {"scenario": {"heterogeneity": 0.3}},
        "0 classes per hospital",
    ),
    "threshold that cannot fire": (
        {
            "twin": {
                "detection": {
                    "rule": "entropy_jump",
                    "jump_fraction": 0.521,
                    "reference_classes": 10,
                }
            }
        },
        "can never fire",
    ),
    "threshold above every entropy": (
        {"twin": {"detection": {"rule": "entropy_jump", "jump_fraction": 1.2}}},
        "jump_fraction is 1.2",
    ),
    "flip of left and right": (
        {"training": {"augmentation": {"horizontal_flip": True}}},
        "left and right",
    ),
    "calibrated without history": (
        {"twin": {"held_back_fraction": 0, "detection": {"rule": "calibrated"}}},
        "held_back_fraction",
    ),
    "negative memory": ({"twin": {"memory_capacity": -1}}, "memory_capacity is -1"),
    "unknown method": ({"method": {"name": "fedkaa"}}, "Did you mean 'fedka'?"),
    "word for a number": ({"training": {"epochs": "many"}}, "training.epochs is 'many'"),
    "dirichlet without disjoint images": ({"scenario": {"images": "shared"}}, "dirichlet_alpha"),
    "fewer that look than train": (
        {"federation": {"observers_per_round": 2}},
        "observers_per_round is 2; allowed: at least twins_per_round",
    ),
    "no workers": ({"engine": {"workers": 0}}, "workers is 0; allowed: 1 or more, or none"),
    "no twins": ({"federation": {"twins_per_round": 0}}, "twins_per_round is 0"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_value_that_cannot_be_run_is_one_clear_error(write: Any, case: str) -> None:
    sections, text = BAD_VALUES[case]
    with pytest.raises(ConfigError) as caught:
        load_experiment(cast(Any, cast(Any, write(**sections))))  # type: ignore[arg-type]  # wrong on purpose
    assert text in str(caught.value)


def test_hospitals_are_named_in_files_or_generated_but_not_both(write: Callable[..., Any]) -> None:
    folder = write()
    (folder / "hospital_a.yaml").write_text("name: a\n")
    with pytest.raises(ConfigError, match="exactly one of the two"):
        load_experiment(folder)


def test_a_named_hospital_with_a_typo_is_an_error_with_its_file(write: Callable[..., Any]) -> None:
    folder = write(hospitals=None)
    (folder / "hospital_a.yaml").write_text("name: a\njoin_at_task: 1\n")
    with pytest.raises(ConfigError, match=r"hospital_a\.yaml.*join_at_task.*joins_at_task"):
        load_experiment(folder)


def test_a_missing_folder_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="organa_demo"):
        load_experiment(CONFIGS / "organa_dem")


def test_broken_yaml_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("name: [unclosed\n")
    with pytest.raises(ConfigError, match="not readable YAML"):
        load_experiment(tmp_path)


def test_settings_can_be_changed_from_outside() -> None:
    config = load_experiment(
        CONFIGS / "organa_demo",
        ["training.epochs=7", "method.name=fedavg", "method.head_loss=ce", "method.mean=equal"],
    )
    assert config.training.epochs == 7 and type(config.method).__name__ == "FedAvg"


def test_the_digest_ignores_where_twins_run_and_sees_what_changes_results() -> None:
    base = load_experiment(CONFIGS / "organa_demo")
    assert (
        load_experiment(CONFIGS / "organa_demo", ["engine.name=sequential"]).digest()
        == base.digest()
    )
    assert load_experiment(CONFIGS / "organa_demo", ["engine.threads=2"]).digest() != base.digest()
    assert (
        load_experiment(CONFIGS / "organa_demo", ["training.momentum=0.8"]).digest()
        != base.digest()
    )


def test_settings_that_change_no_result_change_no_digest_and_those_that_do_change_it() -> None:
    def digest(*changes: Any) -> str:
        return load_experiment(CONFIGS / "organa_demo", changes).digest()

    assert digest() == digest(
        "engine.workers=7", "engine.name=debug", "federation.observers_per_round=null"
    )
    assert (
        len({digest(), digest("engine.threads=3"), digest("federation.observers_per_round=8")}) == 3
    )
