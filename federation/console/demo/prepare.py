"""From an empty folder to a federation that serves its first model: history, mirrors, training, release, people. Opens no port.

Each step looks first whether it was done, so that a preparation that was broken off goes on where it stopped.
"""

import json
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
    first_addition,
    plain_settings,
    settings_of,
)
from federation.console.hospital_loop import HospitalLoop
from federation.console.services import Services, utc_now
from federation.console.settings import (
    SETTINGS_FILE,
    ConsoleSettings,
    load_settings,
    make_folder,
    write_private,
)
from twin.review.model_worker import ModelWorker
from twin.review.store import ReviewStore
from twin.review.workflow import SYSTEM

Tell = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much."""

FIRST_MODEL, FIRST_RELEASE = "first-model", "first-release"
_PATIENTS_AT_ONCE = 2
_LOOK_SECONDS = 0.1


def prepare(folder: Path, plan: DemoPlan, tell: Tell) -> list[Person]:
    """Make a demo, or make the rest of it.

    Args:
        folder: Of the console; made if it is not there.
        plan: What it is made of; must be the same in the same folder.
        tell: Is told how far it is.

    Returns:
        The people who were made now, with their passwords.

    Raises:
        DemoError: If the folder is another console's, or the first model could not be trained or released.
    """
    settings = _settings(folder, plan)
    services = make_services(settings)
    try:
        _fill_mirrors(plan, settings, services.store, tell)
        _first_model(plan, services, tell)
        return add_people(services)
    finally:
        for mirror in services.mirrors.values():
            mirror.close()


def _settings(folder: Path, plan: DemoPlan) -> ConsoleSettings:
    if not (folder / SETTINGS_FILE).exists():
        make_folder(settings_of(plan, folder), plain_settings(plan))
    settings = load_settings(folder)
    if (
        settings.hospitals != plan.hospitals
        or settings.model_name != settings_of(plan, folder).model_name
    ):
        raise DemoError(
            f"{folder} is the console of {', '.join(settings.hospitals)}; allowed: a demo of {', '.join(plan.hospitals)}; give another"
        )
    return settings


def _fill_mirrors(
    plan: DemoPlan, settings: ConsoleSettings, store: ReviewStore, tell: Tell
) -> None:
    """Deliver each hospital's history and take it in, as if it had come over the last days."""
    deliveries, what = Deliveries(plan, settings), "Images of the last days arrive"
    if all(
        deliveries.history(hospital) >= plan.patients for hospital in plan.hospitals
    ) and not _waiting(settings):
        return
    clock = _PastClock(utc_now(), plan)
    with ModelWorker() as worker:  # no model serves yet, so it stays asleep
        for place, hospital in enumerate(plan.hospitals):
            loop = HospitalLoop(settings, hospital, store, worker, clock)
            for patient in range(plan.patients):
                clock.patient = patient
                tell(what, place * plan.patients + patient, plan.patients * len(plan.hospitals))
                if patient >= deliveries.history(hospital):
                    deliveries.send_history(hospital)
                if patient % _PATIENTS_AT_ONCE == _PATIENTS_AT_ONCE - 1:
                    loop.step()
            loop.step()
    tell(what, plan.patients * len(plan.hospitals), plan.patients * len(plan.hospitals))


@dataclass
class _PastClock:
    """Tells when a patient of the history came."""

    now: datetime
    plan: DemoPlan
    patient: int = 0

    def __call__(self) -> datetime:
        return self.now - timedelta(days=self.plan.days * (1 - self.patient / self.plan.patients))


def _waiting(settings: ConsoleSettings) -> bool:
    return any(any(settings.hospital(each).inbox.rglob("*.dcm")) for each in settings.hospitals)


def _first_model(plan: DemoPlan, services: Services, tell: Tell) -> None:
    settings = services.settings
    if services.registry.current() is not None:
        return
    trained = _run(
        ADDITION,
        settings.folder / FIRST_MODEL,
        _first_training(plan, settings),
        "The first model is trained",
        tell,
    )
    job = _first_release(settings, Path(trained["candidate"]), Path(trained["comparison"]))
    released = _run(
        RELEASE, settings.folder / FIRST_RELEASE, job, "The first model is released", tell
    )
    services.registry.keep(released["versions"])
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
        "config": first_addition(plan),
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
    module: str, folder: Path, job: Mapping[str, Any], what: str, tell: Tell
) -> dict[str, Any]:
    """Run a job's process to its end and return its result; one that was done before returns at once."""
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(folder / "job.json", json.dumps(job, indent=1).encode())
    (folder / "result.json").unlink(missing_ok=True)
    with (
        (folder / "log.txt").open("ab") as log,
        _child([sys.executable, "-m", module, str(folder / "job.json")], log) as child,
    ):
        done = 0
        while child.poll() is None:
            rounds = [line for line in _progress(folder) if line.get("step") == "round"]
            done = rounds[-1]["done"] if rounds else 0
            tell(what, done, rounds[-1]["of"] if rounds else 1)
            time.sleep(_LOOK_SECONDS)
    result: dict[str, Any] = (
        json.loads((folder / "result.json").read_bytes())
        if (folder / "result.json").exists()
        else {}
    )
    if not result.get("ok"):
        raise DemoError(
            f"{what}: {result.get('error', f'its process ended with exit code {child.returncode}')}; see {folder / 'log.txt'}"
        )
    tell(what, 1, 1)
    return result


@contextmanager
def _child(command: list[str], log: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A child process that does not outlive us, whatever happens."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait()


def _progress(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = (folder / "progress.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]
