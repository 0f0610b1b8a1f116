"""Preparation of the demo, from an empty folder to a federation that serves its first model.

The steps are history, mirrors, training, release and accounts. Each step first checks whether it
was already done, so that an interrupted preparation continues where it stopped.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from federation.console.app import make_services
from federation.console.background_job import ADDITION, RELEASE
from federation.console.demo.deliveries import Deliveries
from federation.console.demo.demo_accounts import Person, add_people
from federation.console.demo.plan import (
    DemoError,
    DemoPlan,
    demo_settings,
    first_model_training,
    plain_settings,
)
from federation.console.files import json_lines, read_json, write_json
from federation.console.hospital_loop import HospitalLoop
from federation.console.services import Services, utc_now
from federation.console.settings import SETTINGS_FILE, ConsoleSettings, load_settings, make_folder
from twin.review.model_worker import ModelWorker
from twin.review.store import ReviewStore
from twin.review.workflow import SYSTEM

ReportProgress = Callable[[str, int, int], None]
"""Receives the name of a step, how much of it is done, and of how much."""

FIRST_MODEL, FIRST_RELEASE = "first-model", "first-release"
_PATIENTS_AT_ONCE = 2
_POLL_SECONDS = 0.1


def prepare(folder: Path, plan: DemoPlan, report: ReportProgress) -> list[Person]:
    """Prepare a demo, or continue its preparation.

    Args:
        folder: Folder of the console; made if missing.
        plan: Plan of the demo; must stay the same for a folder.
        report: Receives the progress.

    Returns:
        The accounts that were made now, with their passwords.

    Raises:
        DemoError: If the folder belongs to another console, or the first model could not be
            trained or released.
    """
    settings = _settings(folder, plan)
    services = make_services(settings)
    try:
        _fill_mirrors(plan, settings, services.store, report)
        _first_model(plan, services, report)
        return add_people(services)
    finally:
        for mirror in services.mirrors.values():
            mirror.close()


def _settings(folder: Path, plan: DemoPlan) -> ConsoleSettings:
    if not (folder / SETTINGS_FILE).exists():
        make_folder(demo_settings(plan, folder), plain_settings(plan))
    settings = load_settings(folder)
    expected = demo_settings(plan, folder)
    if (settings.hospitals, settings.model_name) != (expected.hospitals, expected.model_name):
        raise DemoError(
            f"{folder} is the console of {', '.join(settings.hospitals)}; "
            f"allowed: a demo of {', '.join(plan.hospitals)}; give another"
        )
    return settings


def _fill_mirrors(
    plan: DemoPlan, settings: ConsoleSettings, store: ReviewStore, report: ReportProgress
) -> None:
    """Send each hospital its history and take it in, dated over the last days."""
    deliveries, what = Deliveries(plan, settings), "Images of the last days arrive"
    is_sent = all(deliveries.num_history_sent(each) >= plan.patients for each in plan.hospitals)
    if is_sent and not _has_waiting_files(settings):
        return
    clock, total = _PastClock(utc_now(), plan), plan.patients * len(plan.hospitals)
    with ModelWorker() as worker:  # never started, as no model serves yet
        for place, hospital in enumerate(plan.hospitals):
            loop = HospitalLoop(settings, hospital, store, worker, clock)
            for patient in range(plan.patients):
                clock.patient = patient
                report(what, place * plan.patients + patient, total)
                if patient >= deliveries.num_history_sent(hospital):
                    deliveries.send_history(hospital)
                if patient % _PATIENTS_AT_ONCE == _PATIENTS_AT_ONCE - 1:
                    loop.run_once()
            loop.run_once()
    report(what, total, total)


@dataclass
class _PastClock:
    """Returns the time at which a patient of the history arrived."""

    now: datetime
    plan: DemoPlan
    patient: int = 0

    def __call__(self) -> datetime:
        return self.now - timedelta(days=self.plan.days * (1 - self.patient / self.plan.patients))


def _has_waiting_files(settings: ConsoleSettings) -> bool:
    return any(any(settings.hospital(each).inbox.rglob("*.dcm")) for each in settings.hospitals)


def _first_model(plan: DemoPlan, services: Services, report: ReportProgress) -> None:
    settings = services.settings
    if services.registry.serving_model() is not None:
        return
    trained = _run(
        ADDITION,
        settings.folder / FIRST_MODEL,
        _first_training(plan, settings),
        "The first model is trained",
        report,
    )
    job = _first_release(settings, Path(trained["candidate"]), Path(trained["comparison"]))
    released = _run(
        RELEASE, settings.folder / FIRST_RELEASE, job, "The first model is released", report
    )
    services.registry.save_versions(released["versions"])
    services.catalogue.add_model_classes(services.registry.champion_classes(), SYSTEM.user)


def _first_training(plan: DemoPlan, settings: ConsoleSettings) -> Mapping[str, Any]:
    return {
        "job_id": FIRST_MODEL,
        "champion": None,
        "hospitals": [
            {"hospital_id": each, "mirror": str(settings.hospital(each).mirror), "new_images": None}
            for each in plan.hospitals
        ],
        "seed": plan.seed,
        "config": first_model_training(plan),
        "rules": dict(settings.release_rules),
    }


def _first_release(
    settings: ConsoleSettings, candidate: Path, comparison: Path
) -> Mapping[str, Any]:
    return {
        "job_id": FIRST_RELEASE,
        "verb": "release",
        "tracking_uri": settings.models_url,
        "model_name": settings.model_name,
        "models_folder": str(settings.models_folder),
        "actor": SYSTEM.user,
        "reason": "the demo's first model: there is none to compare it with",
        "candidate": str(candidate),
        "comparison": str(comparison),
    }


def _run(
    module: str, folder: Path, job: Mapping[str, Any], what: str, report: ReportProgress
) -> dict[str, Any]:
    """Run the process of a job to its end and return its result."""
    folder.mkdir(mode=0o700, exist_ok=True)
    write_json(folder / "job.json", job)
    (folder / "result.json").unlink(missing_ok=True)
    with (
        (folder / "log.txt").open("ab") as log,
        _child([sys.executable, "-m", module, str(folder / "job.json")], log) as child,
    ):
        while child.poll() is None:
            rounds = [line for line in _progress(folder) if line.get("step") == "round"]
            report(what, rounds[-1]["done"] if rounds else 0, rounds[-1]["of"] if rounds else 1)
            time.sleep(_POLL_SECONDS)
    result = read_json(folder / "result.json") or {}
    if not result.get("ok"):
        ended = f"its process ended with exit code {child.returncode}"
        raise DemoError(f"{what}: {result.get('error', ended)}; see {folder / 'log.txt'}")
    report(what, 1, 1)
    return result


@contextmanager
def _child(command: list[str], log: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a child process that ends with this block, whatever happens."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait()


def _progress(folder: Path) -> list[dict[str, Any]]:
    path = folder / "progress.jsonl"
    return json_lines(path.read_bytes()) if path.exists() else []
