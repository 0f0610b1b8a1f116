"""Acceptance 1 and 2 of a deployment.

Real processes over mutual TLS, the sequential run's weights, and killed hospitals and server.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import torch

from federation.experiment.config import load_experiment
from federation.experiment.loop import run_experiment
from federation.flare.engine import LinkConfig
from federation.flare.event_feed import read_feed, read_status
from federation.flare.local_processes import isolated
from federation.flare.provisioning import DeployError, Deployment, init_deployment
from federation.flare.server import ServerConfig
from incremental.model_file import load_model
from physical.datasets import DataError, load_dataset

pytest.importorskip("nvflare")
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 240.0
SMALL = ("evaluation.round_images=60", "evaluation.task_images=60", "tracking.enabled=false")
FEDKA = "method={name: fedka, head_loss: ce, reconstruction: {perturb_steps: 2, invert_steps: 5}}"


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    try:
        isolated(["true"])
    except DeployError as error:
        pytest.skip(str(error))


class Running:
    """``fedka deploy up --local`` as a process of its own, ended whatever happens."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self._log = (folder / "up.log").open("ab")
        command = [
            sys.executable,
            "-m",
            "federation",
            "deploy",
            "up",
            str(deployment.folder),
            "--local",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *error: Any) -> None:
        family = (
            psutil.Process(self.process.pid).children(recursive=True)
            if self.process.poll() is None
            else []
        )
        self.process.kill()
        self.process.wait()
        self._log.close()
        for each in family:
            if each.is_running():
                each.kill()
        psutil.wait_procs(family, 10)

    def status(self) -> dict[str, Any]:
        return read_status(self.deployment.place.folder)

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert time.monotonic() < end, f"{what} did not come: {self.status()}"
            assert self.process.poll() is None or is_so(), (
                f"ended before {what}: {(self._log.name, self.status())}"
            )
            time.sleep(0.05)

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self, kit: Path) -> int:
        """Kill every process of a site, as a power cut would; return how many there were."""
        killed = 0
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if str(kit.resolve()) in process.cmdline():
                    process.send_signal(signal.SIGKILL)
                    killed += 1
            except psutil.NoSuchProcess:
                continue
        return killed


def deploy(
    tmp_path: Path, *changes: str, folder: str = "phantom_tiny", **link: Any
) -> tuple[object, Deployment]:
    config = load_experiment(ROOT / "hospital_configs" / folder, (*SMALL, *changes))
    made = init_deployment(
        config,
        tmp_path / "deployment",
        ServerConfig((), LinkConfig(**link)),
        host="localhost",
        port=8102,
    )
    return config, made


def weights_of(run: Path) -> dict[str, dict[Any, Any]]:
    return {
        folder.name: load_model(folder)[0].state_dict()
        for folder in sorted((run / "models").iterdir())
    }


def assert_same(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first and first.keys() == second.keys()
    for name, weights in first.items():
        assert all(torch.equal(value, second[name][key]) for key, value in weights.items())


def test_five_processes_over_mutual_tls_end_with_the_sequential_runs_weights(
    tmp_path: Path,
) -> None:
    config, made = deploy(
        tmp_path,
        FEDKA,
        "scenario.rounds_per_task=2",
        "federation.settle_rounds=1",
        minimum_hospitals=4,
        deadline_seconds=120,
    )
    run_experiment(cast(Any, config), tmp_path / "here")
    with Running(made, tmp_path) as running:
        assert running.wait() == 0, (tmp_path / "up.log").read_text()[-3000:]
    assert_same(tmp_path / "here", made.place.run)
    texts = [each["text"] for each in read_feed(made.place.folder, 100)]
    assert "round 3 aggregated, 3 of 3 hospitals returned" in texts and texts[-1] == "finished"


@pytest.mark.data
def test_real_organs_over_mutual_tls_end_with_the_sequential_runs_weights(tmp_path: Path) -> None:
    try:
        load_dataset("organamnist")
    except DataError as error:
        pytest.skip(f"OrganAMNIST cannot be had here: {error}")
    config, made = deploy(
        tmp_path, folder="organa_deploy", minimum_hospitals=4, deadline_seconds=200
    )
    run_experiment(cast(Any, config), tmp_path / "here")
    with Running(made, tmp_path) as running:
        assert running.wait() == 0, (tmp_path / "up.log").read_text()[-3000:]
    assert_same(tmp_path / "here", made.place.run)


def test_killed_hospitals_and_a_killed_server_cost_repeated_rounds_and_nothing_else(
    tmp_path: Path,
) -> None:
    config, made = deploy(
        tmp_path,
        FEDKA,
        "scenario.rounds_per_task=6",
        "training.epochs=20",
        minimum_hospitals=4,
        deadline_seconds=20,
    )
    run_experiment(cast(Any, config), tmp_path / "here")
    with Running(made, tmp_path) as running:

        def in_the_midst_of(round_number: int) -> bool:
            status = running.status()
            return (
                status.get("round") == round_number
                and status.get("stage") == "observe"
                and status.get("state") == "running"
            )

        running.until(lambda: in_the_midst_of(2), "the training of round 2")
        assert running.kill(made.hospital("north")) and running.kill(made.hospital("south"))
        running.until(
            lambda: running.status().get("rounds_done", 0) >= 4,
            "round 4, after two hospitals were killed",
        )
        running.until(
            lambda: in_the_midst_of(running.status()["rounds_done"]),
            "the training of a later round",
        )
        done = running.status()["rounds_done"]
        assert done < 11 and running.kill(made.server)
        assert running.wait() == 0, (tmp_path / "up.log").read_text()[-3000:]
    assert read_status(made.place.folder)["rounds_done"] == 12
    assert_same(tmp_path / "here", made.place.run)
    here, there = (
        json.loads((run / "results.json").read_text())
        for run in (tmp_path / "here", made.place.run)
    )
    assert {**here, "seconds": 0} == {**there, "seconds": 0}
    feed = read_feed(made.place.folder, 1000)
    assert any(
        each["event"] == "absent" and each["hospital"] in ("north", "south") for each in feed
    )
    assert (
        sum(each["event"] == "state" and each["state"] == "running" for each in feed) >= 3
    )  # sessions
