"""No setting and no damaged file of a run folder ends in a traceback."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.experiment.checkpoint import CheckpointError
from federation.experiment.config import ExperimentConfig, load_experiment
from federation.experiment.config_file import ConfigError, parse_yaml
from federation.experiment.loop import ExperimentError, run_experiment
from federation.experiment.run_folder import RunFolder, RunFolderError
from federation.experiment.twin_reports import reports_of_run
from federation.methods import METHODS

TINY = Path(__file__).parents[3] / "hospital_configs" / "phantom_tiny"
QUICK = (
    "method=fedavg",
    "training.epochs=1",
    "tracking.enabled=false",
    "scenario.rounds_per_task=1",
    "federation.settle_rounds=0",
)
HOSTILE = (  # type: ignore[var-annotated]  # any
    *(-1, 0, 1, 10**30, -(10**400), 0.5, -0.5, 1e308, True, None, "", " ", "x", "nan", "1e400"),
    *("-.inf", ".nan", "\u0000", "[]", "{}", [], [1, 2], {}, {"a": 1}, {"name": 1}, [[]], [None]),
)


def keys_of(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the path of every setting of a configuration, at every level."""
    for field in dataclasses.fields(kind):
        path = f"{prefix}{field.name}"
        yield path
        hint = get_type_hints(kind).get(field.name)
        for each in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(each):
                yield from keys_of(each, f"{path}.")


KEYS = sorted(
    {*keys_of(ExperimentConfig), "hospitals.initial", "hospitals.join_per_task"}
    | {key for kind in METHODS.values() for key in keys_of(kind, "method.")}
)


def text_of(value: object) -> str:
    return value if isinstance(value, str) else yaml.safe_dump(value)


@settings(max_examples=2000)
@given(
    st.sampled_from(KEYS),
    st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(max_size=8),
    st.sampled_from(sorted(METHODS)),
)
def test_no_value_of_any_setting_ends_in_a_traceback(key: str, value: object, method: str) -> None:
    try:
        config = load_experiment(TINY, [f"method={method}", f"{key}={text_of(value)}"])
    except ConfigError as error:
        assert str(error)
    else:
        json.dumps(config.as_plain(), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "key 'a' stands twice"),
        ("a: {b: 1, b: 2}", "key 'b' stands twice"),
        ("a: .inf", "a is inf; allowed: a finite number"),
        ("a: [1, .nan]", r"a\[1\] is nan; allowed: a finite number"),
        ("a: [", "is not readable YAML"),
        ("\t", "is not readable YAML"),
    ],
)
def test_yaml_that_would_be_misread_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "experiment.yaml")


@pytest.mark.parametrize("change", ["seed=-1", "seed=9223372036854775808", "training.epochs=["])
def test_numbers_and_texts_that_cannot_be_are_one_clear_error(change: str) -> None:
    with pytest.raises(ConfigError):
        load_experiment(TINY, [change])


def test_a_task_as_short_as_the_rounds_for_latecomers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set federation.settle_rounds to 1 or less"):
        load_experiment(TINY, ["scenario.rounds_per_task=2"])


@pytest.mark.parametrize("below", [False, True])
def test_a_run_folder_on_a_file_is_one_clear_error(tmp_path: Path, below: bool) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run" if below else tmp_path / "file"
    with pytest.raises(RunFolderError, match=r"cannot be a run folder: .*choose another --out"):
        run_experiment(load_experiment(TINY, QUICK), out)


def test_a_folder_that_another_run_holds_is_one_clear_error_that_names_it(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(RunFolderError, match=r"is in use by process \d+ on .*choose another --out"),
    ):
        run_experiment(load_experiment(TINY, QUICK), tmp_path)
    assert not (tmp_path / "holder.json").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("mangled") / "run"
    run_experiment(load_experiment(TINY, QUICK), out)
    return out


DAMAGES: dict[str, Any] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "last byte lost": lambda content: content[:-1],
    "first byte lost": lambda content: content[1:],
    "garbled": lambda content: content[: len(content) // 3] + b"\xff\x00{" + content[40:],
    "a list": lambda content: b"[1, 2]\n",
    "a number": lambda content: b"7\n",
    "another object": lambda content: b'{"a": null}\n',
    "twice": lambda content: content + content,
    "zeros": lambda content: bytes(len(content)),
    "a hole": lambda content: content[:100] + bytes(64) + content[164:],
    "capitals": lambda content: content.upper(),
    "quoted": lambda content: b'"' + content[:200].replace(b'"', b"") + b'"',
    "wrong types": lambda content: content.replace(b"0", b'"x"').replace(b"null", b"[]"),
    "keys renamed": lambda content: content.replace(b'":', b'_":'),
}


def files_of(folder: Path) -> list[Path]:
    return sorted(each.relative_to(folder) for each in folder.rglob("*") if each.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damaged_file_of_a_run_folder_ends_in_a_traceback_or_a_wrong_number(
    finished: Path, tmp_path: Path, damage: str
) -> None:
    config = load_experiment(TINY, QUICK)
    expected = RunFolder(finished).read_json("results.json")
    tried = 0
    for place in files_of(finished):
        broken = tmp_path / str(tried)
        shutil.copytree(finished, broken)
        (broken / place).write_bytes(DAMAGES[damage]((finished / place).read_bytes()))
        tried += 1
        try:
            results = run_experiment(config, broken, resume=True)
            assert results["accuracy_matrix"] == expected["accuracy_matrix"], place
        except (ExperimentError, RunFolderError, CheckpointError, ConfigError) as error:
            assert str(error), place
        try:
            reports_of_run(broken)
        except ValueError as error:
            assert type(error).__module__.partition(".")[0] in ("federation", "twin"), place
        shutil.rmtree(broken)
    assert tried >= 20
