"""An example console without a model: two hospitals, six users, three cases, one training."""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from argon2 import PasswordHasher
from fastapi import FastAPI
from starlette.testclient import TestClient

from federation.console.app import make_app, make_services
from federation.console.job_queue import Job
from federation.console.security.csrf import csrf_token
from federation.console.services import Services
from federation.console.settings import ConsoleSettings, make_folder
from physical.mirror import MirrorImage
from twin.review.cases import CaseImage, CaseSummary
from twin.review.workflow import SYSTEM, Actor, Role

PASSWORD = "a long enough password"
PEOPLE = {  # user -> role, hospital
    "ada": (Role.CLINICIAN, "north"),
    "ben": (Role.APPROVER, "north"),
    "cyd": (Role.CLINICIAN, "south"),
    "dee": (Role.APPROVER, "south"),
    "olu": (Role.OPERATOR, None),
    "aud": (Role.AUDITOR, None),
}
SIDE = 16
PLAIN: dict[str, Any] = {
    "hospitals": ("north", "south"),
    "image_size": SIDE,
    "secure_cookies": False,
    "train_on_approval": False,
}
KNOWN = ("liver", "spleen")
NASTY = "<script>alert(1)</script>"


@dataclass
class Clock:
    """A clock that a test can move."""

    now: datetime = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass(frozen=True)
class World:
    """A console and its content."""

    settings: ConsoleSettings
    services: Services
    app: FastAPI
    clock: Clock
    cases: dict[str, int]
    training_id: str

    def client(self, user: str | None = None) -> TestClient:
        """Return a browser, logged in if a user is given."""
        client = TestClient(
            self.app,
            base_url="http://localhost",
            follow_redirects=False,
            raise_server_exceptions=False,
        )
        if user is not None:
            token = self.services.accounts.open_session(user)
            client.cookies.set("fedka-session", token)
            client.headers["X-CSRF-Token"] = csrf_token(self.services.secret, token)
        return client


def make_world(folder: Path) -> World:
    """Make a console with its users, images and cases."""
    settings = ConsoleSettings(folder=folder / "console", **PLAIN)
    make_folder(settings, {**PLAIN, "hospitals": list(PLAIN["hospitals"])})
    world = _open(settings, {}, "")
    services = world.services
    for user, (role, hospital) in PEOPLE.items():
        services.accounts.add(user, PASSWORD, role, hospital)
    _serve_a_model(services)
    services.catalogue.add_model_classes(KNOWN, "system")
    cases = {hospital: _open_case(services, hospital) for hospital in settings.hospitals}
    cases["evaluated"] = _open_case(services, "north", "e")
    return replace(world, cases=cases, training_id=_train(services, cases["evaluated"]))


def copy_world(world: World, folder: Path, **changes: object) -> World:
    """Copy a console, with other settings; much faster than making one."""
    shutil.copytree(world.settings.folder, folder / "console")
    return _open(
        ConsoleSettings(folder=folder / "console", **{**PLAIN, **changes}),
        world.cases,
        world.training_id,
    )


def _open(settings: ConsoleSettings, cases: dict[str, Any], training_id: str) -> World:
    clock = Clock()
    services = make_services(
        settings, clock, PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    )
    return World(
        settings, services, make_app(settings, services, with_jobs=False), clock, cases, training_id
    )


def _serve_a_model(services: Services) -> None:
    versions = [
        {
            "version": "1",
            "aliases": ["champion"],
            "class_names": list(KNOWN),
            "created": "2026-02-01T00:00:00+00:00",
            "accuracy": 0.9,
            "facts": {},
        }
    ]
    services.registry.save_versions(versions)
    place = services.settings.models_folder
    (place / "current.json").write_text(
        json.dumps({"version": "1", "folder": str(place / "version-1")})
    )


def _open_case(services: Services, hospital: str, letter: str = "d", num_images: int = 3) -> int:
    rng = np.random.default_rng(1)
    ids = [f"{letter}{hospital}{index}" for index in range(num_images)]
    arrived = [f"2026-02-{index % 27 + 1:02d}T08:00:00+00:00" for index in range(num_images)]
    pixels = rng.integers(0, 255, (num_images, SIDE, SIDE), dtype=np.uint8)
    mirror = services.mirrors[hospital]
    mirror.add(
        [
            MirrorImage(each, at, "p", "s", None, image, "png")
            for each, at, image in zip(ids, arrived, pixels, strict=True)
        ]
    )
    images = [
        CaseImage(each, 0.7, (("liver", 0.4), ("spleen", 0.3)), 0.1, at)
        for each, at in zip(ids, arrived, strict=True)
    ]
    histogram = (0,) * 14 + (num_images,) + (0,) * 5
    summary = CaseSummary(
        num_images,
        0.7,
        (("liver", 0.6),),
        {"liver": (ids[0],)},
        histogram,
        (5,) * 20,
        "entropy",
        0.5,
        "1",
        tuple(ids[:2]),
    )
    return services.store.open_case(hospital, images, summary)


def _train(services: Services, case_id: int) -> str:
    """Bring a case to ``evaluated``, with the files that a training writes."""
    act, ada, ben = services.store.act, Actor("ada", Role.CLINICIAN), Actor("ben", Role.APPROVER)
    act(case_id, "open", ada, hospital="north")
    services.catalogue.propose("pancreas", "ada", "north")
    act(case_id, "name", ada, hospital="north", class_name="pancreas")
    act(case_id, "approve", ben, hospital="north")
    job = services.jobs.add("training", "ben", Role.APPROVER)
    act(case_id, "start_training", ben, hospital="north", training_id=job.job_id)
    act(case_id, "finish_training", SYSTEM, hospital=None, candidate_version="2")
    end_job(
        services,
        job,
        {"ok": True, "candidate": "x", "light": "green", "class_names": [*KNOWN, "pancreas"]},
    )
    folder = services.settings.jobs_folder / job.job_id
    (folder / "cases.json").write_text(json.dumps([["north", case_id]]))
    progress = {
        "at": "2026-03-01T09:00:00+00:00",
        "step": "round",
        "done": 3,
        "of": 3,
        "text": "round 3",
        "losses": {},
        "accuracy": 0.9,
    }
    (folder / "progress.jsonl").write_text(json.dumps(progress) + "\n")
    (folder / "comparison.json").write_text(json.dumps(_comparison()))
    maps = np.full((1, SIDE, SIDE), 90, np.uint8)
    np.savez(folder / "attention.npz", before=np.zeros_like(maps), after=maps)
    register = services.jobs.add("register", "ben", Role.APPROVER, job.job_id)
    end_job(services, register, {"ok": True, "version": "2"})
    return job.job_id


def _comparison() -> dict[str, object]:
    side = {
        "digest": "d",
        "class_names": list(KNOWN),
        "accuracy": 0.9,
        "macro_f1": 0.9,
        "calibration_error": 0.02,
        "num_images": 30,
    }
    rows = [("liver", False, 0.9, 0.0), ("spleen", False, 0.9, 0.0), ("pancreas", True, None, None)]
    example = {
        "hospital": "north",
        "image_id": "enorth0",
        "truth": "pancreas",
        "before": "liver",
        "after": "pancreas",
        "number": 0,
    }
    light = {
        "rule": "max_loss_per_old_class_points",
        "subject": "liver",
        "light": "green",
        "measured": 0.0,
        "allowed": 2.0,
    }
    return {
        "candidate": {**side, "class_names": [*KNOWN, "pancreas"]},
        "champion": side,
        "classes": [
            {
                "class_name": name,
                "num_images": 10,
                "is_new": new,
                "candidate_accuracy": 0.9,
                "champion_accuracy": was,
                "loss_points": loss,
            }
            for name, new, was, loss in rows
        ],
        "hospitals": [
            {
                "hospital": each,
                "num_images": 15,
                "candidate_accuracy": 0.9,
                "champion_accuracy": 0.9,
                "loss_points": 0.0,
            }
            for each in ("north", "south")
        ],
        "known_accuracy": {"candidate": 0.9, "champion": 0.9},
        "num_changed": 1,
        "num_mended": 1,
        "num_broken": 0,
        "changed": [{**example, "before_probability": 0.6, "after_probability": 0.8}],
        "verdict": {
            "overall": "green",
            "lights": [
                {**light, "unit": "points", "num_images": 10, "text": "liver loses 0.0 points"}
            ],
        },
    }


def end_job(services: Services, job: Job, result: dict[str, Any]) -> Job:
    """Write the files that the process of a job and the queue would write."""
    folder = services.settings.jobs_folder / job.job_id
    ended = replace(
        job, state="done", started=job.created, ended=job.created, attempts=1, settled=True
    )
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "state.json").write_text(json.dumps(asdict(ended)))
    return ended


def close(world: World) -> World:
    """Close the files of a console."""
    world.services.model_answers.close()
    for mirror in world.services.mirrors.values():
        mirror.close()
    return world
