import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from federation.cli import models
from federation.tracking import TrackingError
from incremental.head import grow_head
from incremental.model_file import save_model
from incremental.model_store import open_store
from incremental.network import NetworkConfig, initial_weights
from incremental.registry import ModelRegistry, RegistryError

ORGANS = ("liver", "spleen", "heart", "bladder")


@pytest.fixture(scope="module")
def filled_store(
    empty_store: Path, tmp_path_factory: pytest.TempPathFactory, tiny_network: NetworkConfig
) -> Path:
    """Three versions: one class, two classes (champion), and a worse one of one class (refused)."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_store, folder / "mlflow.db")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    client = open_store(store)
    run_id = client.create_run(client.create_experiment("test", folder.as_uri())).info.run_id
    registry = ModelRegistry(store, "fedka")
    for version, (count, accuracy) in enumerate([(1, 0.9), (2, 0.8), (1, 0.1)]):
        weights = grow_head(
            initial_weights(tiny_network, version), count, torch.Generator().manual_seed(1)
        )
        facts = {"round": version, "score": None, "test_accuracy": accuracy}
        save_model(folder / f"task-{version}", weights, tiny_network, ORGANS[:count], facts)
        registry.accept(registry.register(folder / f"task-{version}", run_id, {}))
    return folder / "mlflow.db"


@pytest.fixture
def call(
    filled_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    (tmp_path / "runs").mkdir()
    shutil.copy(filled_store, tmp_path / "runs" / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")
    app = typer.Typer()
    app.add_typer(models.app, name="models")
    app.command("sync")(models.sync)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def listed(call: Callable[..., Result]) -> list[dict[str, Any]]:
    return list(json.loads(call("models", "list", "--format", "json").stdout))


def test_table_shows_the_champion_and_why_a_version_was_refused(
    call: Callable[..., Result],
) -> None:
    shown = call("models", "list")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    (champion,) = [line for line in lines if "champion " in line]
    assert "2: liver, spleen" in champion
    assert "0.8000" in champion
    assert "refused: does not know 1 of the champion's 2 classes: spleen" in shown.stdout


def test_json_lists_aliases_classes_and_digests(call: Callable[..., Result]) -> None:
    versions = listed(call)
    assert [each["aliases"] for each in versions] == [["previous"], ["champion"], []]
    assert versions[1]["class_names"] == ["liver", "spleen"]
    assert versions[1]["facts"]["digest"].startswith("sha256:")


def test_promotion_warns_of_lost_classes_and_rollback_undoes_it(
    call: Callable[..., Result],
) -> None:
    promoted = call("models", "promote", "3")
    assert promoted.stdout == "champion of fedka: version 3 (before: 2)\n"
    assert "does not know 1 of the champion's 2 classes" in promoted.stderr
    assert call("models", "rollback").stdout == "champion of fedka: version 2\n"
    assert call("models", "rollback").stdout == "champion of fedka: version 1\n"
    again = call("models", "rollback")
    assert isinstance(again.exception, RegistryError)
    assert [each["aliases"] for each in listed(call)] == [["champion"], [], []]


def test_alias_may_be_promoted(call: Callable[..., Result]) -> None:
    assert (
        call("models", "promote", "previous").stdout == "champion of fedka: version 1 (before: 2)\n"
    )


def test_unknown_version_is_an_error(call: Callable[..., Result]) -> None:
    assert "known: 1 (previous), 2 (champion), 3" in str(call("models", "promote", "9").exception)


def test_listing_creates_no_store(call: Callable[..., Result], tmp_path: Path) -> None:
    failed = call("models", "list", "--uri", f"sqlite:///{tmp_path / 'absent.db'}")
    assert isinstance(failed.exception, RegistryError)
    assert "there is no store of models" in str(failed.exception)
    assert not (tmp_path / "absent.db").exists()


def test_sync_prints_what_it_uploaded(
    call: Callable[..., Result], filled_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "first"
    (run / "models").mkdir(parents=True)
    shutil.copytree(filled_store.parent / "task-0", run / "models" / "task-0")
    (run / "config.json").write_text('{"seed": 1}')
    shown = call("sync", "runs/first")
    assert "0 records" in shown.stdout
    assert (
        "task-0: version 4, not champion: it does not know 1 of the champion's 2 classes: spleen"
        in shown.stdout
    )
    assert len(listed(call)) == 4


def test_sync_of_a_folder_without_a_run_is_an_error(call: Callable[..., Result]) -> None:
    assert isinstance(call("sync", "runs").exception, TrackingError)


def test_a_store_that_does_not_answer_is_one_clear_error_within_seconds(
    call: Callable[..., Result],
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    failed = call("models", "list", "--uri", f"http://127.0.0.1:{port}")
    assert isinstance(failed.exception, RegistryError)
    assert f"127.0.0.1:{port} does not answer" in str(failed.exception)
