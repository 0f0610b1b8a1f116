import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import load_file

from federation.experiment.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from federation.experiment.config import ExperimentConfig, load_experiment
from federation.experiment.loop import ExperimentError, RunCallbacks, run_experiment, with_seed
from federation.experiment.run_folder import RunFolder
from federation.experiment.twin_reports import reports_of_run
from federation.methods.fedka import FedKA

ROOT = Path(__file__).parents[3]
TINY = ROOT / "hospital_configs" / "phantom_tiny"
VARYING = ("seconds", "code_version")


QUICK = (
    "training.epochs=1",
    "tracking.enabled=false",
    "method.reconstruction={perturb_steps: 2, invert_steps: 4}",
)


def config(*changes: Any, seed: int = 5) -> ExperimentConfig:
    return with_seed(load_experiment(TINY, [*QUICK, *changes]), seed)


def comparable(out: Path) -> dict[str, Any]:
    results = json.loads((out / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in VARYING}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    run_experiment(config(), out)
    return out


def test_a_run_leaves_every_promised_result(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    promised = (
        "average_accuracy last_accuracy macro_f1 forgetting accuracy_matrix detection seconds "
        "images_trained config_digest code_version"
    )
    assert set(promised.split()) <= results.keys()
    assert [len(row) for row in results["accuracy_matrix"]] == [1, 2]
    assert results["images_trained"] > 0 and 0 <= results["last_accuracy"] <= 1


def test_records_manifest_models_and_examples_are_there(finished: Path) -> None:
    folder = RunFolder(finished)
    kinds = [record["kind"] for record in folder.read_records()]
    assert kinds.count("round") == 6 and kinds.count("task") == 2 and kinds.count("model") == 2
    assert folder.read_json("manifest.json")["overlap"]["images_with_several_owners"] == 0
    assert (folder.model(0) / "weights.safetensors").exists() and (
        folder.model(1) / "manifest.json"
    ).exists()
    assert (finished / "examples" / "attention.npz").exists()


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    finished: Path, tmp_path: Path
) -> None:
    run_experiment(config(), tmp_path / "again")
    assert comparable(tmp_path / "again") == comparable(finished)
    run_experiment(config(seed=6), tmp_path / "other")
    assert comparable(tmp_path / "other") != comparable(finished)


def test_the_process_engine_gives_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    run_experiment(config("engine.name=processes", "engine.workers=2"), tmp_path / "processes")
    assert comparable(tmp_path / "processes") == comparable(finished)


class Stop(Exception):
    pass


def stopped_after(when: int, out: Path) -> None:
    """Run until what happened in a round, from 0, has been shown."""

    def stop(record: Mapping[str, Any]) -> None:
        if record["kind"] == "round" and record["round"] == when:
            raise Stop

    with pytest.raises(Stop):
        run_experiment(config(), out, callbacks=RunCallbacks(record=stop))


def stopped_before_checkpoint(number: int, out: Path) -> None:
    """Run until a checkpoint, from 1, is about to be saved: its records are written."""
    saved = []

    def save(folder: Path, checkpoint: Checkpoint) -> Path:
        saved.append(checkpoint)
        if len(saved) == number:
            raise Stop
        return save_checkpoint(folder, checkpoint)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr("federation.experiment.loop.save_checkpoint", save)
        run_experiment(config(), out)


@pytest.mark.parametrize("when", [0, 3, 5])
def test_what_was_shown_is_saved_and_a_resumed_run_equals_an_uninterrupted_one(
    finished: Path, tmp_path: Path, when: int
) -> None:
    stopped_after(when, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint").server.round == when + 1
    run_experiment(config(), tmp_path, resume=True)
    assert comparable(tmp_path) == comparable(finished)
    assert RunFolder(tmp_path).read_records()[-1] == RunFolder(finished).read_records()[-1]


def test_a_round_that_ended_before_its_checkpoint_is_repeated(
    finished: Path, tmp_path: Path
) -> None:
    stopped_before_checkpoint(4, tmp_path)
    run_experiment(config(), tmp_path, resume=True)
    assert comparable(tmp_path) == comparable(finished)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(
    finished: Path, tmp_path: Path, resume: bool
) -> None:
    stopped_before_checkpoint(1, tmp_path)
    run_experiment(config(), tmp_path, resume=resume)
    assert comparable(tmp_path) == comparable(finished)


def cut_records(out: Path, count: int) -> None:
    records = out / "records.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[: len(lines) - count]) + lines[-count][:20])


def test_a_run_whose_last_record_was_lost_repeats_that_round(
    finished: Path, tmp_path: Path
) -> None:
    stopped_after(4, tmp_path)
    cut_records(tmp_path, 1)
    run_experiment(config(), tmp_path, resume=True)
    assert comparable(tmp_path) == comparable(finished)


def test_a_run_that_lost_more_records_than_checkpoints_can_bring_back_says_so(
    tmp_path: Path,
) -> None:
    stopped_after(4, tmp_path)
    cut_records(tmp_path, 4)
    with pytest.raises(CheckpointError, match=r"counts on \d+ records, of which \d+ are whole"):
        run_experiment(config(), tmp_path, resume=True)


def test_a_run_killed_in_the_middle_and_resumed_equals_an_uninterrupted_one(
    finished: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "federation",
        "run",
        str(TINY),
        "--out",
        str(tmp_path / "killed"),
        "--seed",
        "5",
    ]
    command += [word for change in QUICK for word in ("--set", change)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        for line in cast(Any, running.stdout):  # killed while round 3 or a later one is under way
            if line.startswith("round   2"):
                running.send_signal(signal.SIGKILL)
                break
    assert not (tmp_path / "killed" / "results.json").exists()
    done = subprocess.run(
        [*command, "--resume"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert comparable(tmp_path / "killed") == comparable(finished)
    last = "models/task-1/weights.safetensors"
    one, other = load_file(tmp_path / "killed" / last), load_file(finished / last)
    assert all(one[name].equal(other[name]) for name in other)


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before, records = comparable(finished), RunFolder(finished).read_records()
    run_experiment(config(), finished, resume=True)
    assert comparable(finished) == before and RunFolder(finished).read_records() == records


def test_a_folder_that_holds_a_run_is_not_overwritten(finished: Path) -> None:
    with pytest.raises(ExperimentError, match="already holds a run"):
        run_experiment(config(), finished)


def test_a_run_is_not_resumed_with_another_configuration_or_seed(finished: Path) -> None:
    with pytest.raises(ExperimentError, match="was begun with seed 5"):
        run_experiment(config(seed=6), finished, resume=True)
    with pytest.raises(ExperimentError, match="configuration"):
        run_experiment(config("training.momentum=0.1"), finished, resume=True)


def test_nothing_to_resume_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="holds no run to resume"):
        run_experiment(config(), tmp_path / "none", resume=True)


def test_twins_tell_reported_and_desired_state_and_their_history(finished: Path) -> None:
    reports = reports_of_run(finished)
    assert set(reports) == {"north", "east", "south", "west"}
    north = reports["north"]
    assert north["desired"]["classes"] and north["reported"]["exemplars"]
    assert north["events"][0]["what"] == "joined the federation"
    assert any("archived" in event["what"] for event in north["events"])
    assert reports["west"]["events"][0]["round"] == 3


def test_a_failing_disk_ends_the_run_with_its_last_checkpoint_whole(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import federation.experiment.checkpoint as room

    save, calls = room.save_file, []  # type: ignore[attr-defined]  # looked up where it is used

    def full(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return save(*arguments, **keywords)

    monkeypatch.setattr(room, "save_file", full)
    with pytest.raises(room.CheckpointError, match="No space left"):
        run_experiment(config(), tmp_path)
    run_experiment(config(), tmp_path, resume=True)
    assert comparable(tmp_path) == comparable(finished)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("write", [2, 17, 34])
def test_a_run_that_ends_while_a_twins_state_is_written_and_is_resumed_equals_an_uninterrupted_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    import federation.engines.twin_states as room

    save, calls = room.save_file, []  # type: ignore[attr-defined]  # looked up where it is used

    def killed(*arguments: Any, **keywords: Any) -> None:
        calls.append(1)
        if len(calls) == write:
            raise Killed
        save(*arguments, **keywords)

    monkeypatch.setattr(room, "save_file", killed)
    with pytest.raises(Killed):
        run_experiment(config(), tmp_path / "run")
    has_rounds = any((tmp_path / "run" / "checkpoint").glob("round-*"))
    assert has_rounds == (write > 2)
    run_experiment(config(), tmp_path / ("run" if has_rounds else "anew"), resume=has_rounds)
    out = tmp_path / ("run" if has_rounds else "anew")
    assert comparable(out) == comparable(finished)
    assert reports_of_run(out) == reports_of_run(finished)


def test_a_checkpoint_holds_no_twin_and_old_states_are_deleted(finished: Path) -> None:
    folder = RunFolder(finished)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        "round-00005",
        "round-00006",
        "twins",
    ]
    for twin in folder.twins.iterdir():
        assert 1 <= len(list(twin.iterdir())) <= 3
    assert "twins" not in json.loads(
        (folder.checkpoints / "round-00006" / "state.json").read_text()
    )


def test_a_run_in_which_few_twins_look_is_repeated_and_resumed_alike(tmp_path: Path) -> None:
    few = config("federation.observers_per_round=3")

    def stop(record: Any) -> None:
        if record["kind"] == "round" and record["round"] == 3:
            raise Stop

    run_experiment(few, tmp_path / "whole")
    with pytest.raises(Stop):
        run_experiment(few, tmp_path / "stopped", callbacks=RunCallbacks(record=stop))
    run_experiment(few, tmp_path / "stopped", resume=True)
    assert comparable(tmp_path / "stopped") == comparable(tmp_path / "whole")
    rounds = [
        record
        for record in RunFolder(tmp_path / "whole").read_records()
        if record["kind"] == "round"
    ]
    assert {len(record["observations"]) for record in rounds} == {3}


def test_fedka_declares_its_uploads() -> None:
    assert any("gradients" in text for text in FedKA.uploads)
