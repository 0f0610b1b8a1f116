import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from fastapi.testclient import TestClient

from federation.console.app import make_app, make_services
from federation.console.services import Services
from federation.console.settings import ConsoleSettings, make_folder
from physical.mirror import MirrorImage
from twin.review.cases import CaseImage, CaseSummary
from twin.review.workflow import SYSTEM, Actor, Role

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
PASSWORD = "quiet-heron-42-lamp"
KNOWN = ("heart", "liver", "spleen")
EVIL = '<b onclick="x">liver</b>'
PEOPLE = {
    "mara": (Role.CLINICIAN, "anna"),
    "jonas": (Role.APPROVER, "anna"),
    "olga": (Role.OPERATOR, None),
    "rita": (Role.AUDITOR, None),
}
MARA, JONAS = Actor("mara", Role.CLINICIAN), Actor("jonas", Role.APPROVER)


@dataclass
class Desk:
    services: Services
    app: FastAPI
    clients: dict[str, TestClient] = field(default_factory=dict)
    num_cases: int = 0

    def client(self, user: str) -> TestClient:
        """Somebody's browser; signs in at its first use."""
        if user not in self.clients:
            client = self.clients[user] = TestClient(self.app, base_url="http://testserver")
            if user != "nobody":
                token = Page.of(client.get("/login").text).value("csrf_token")
                answer = client.post(
                    "/login",
                    data={"csrf_token": token, "user": user, "password": PASSWORD},
                    follow_redirects=False,
                )
                assert answer.status_code == 303
        return self.clients[user]

    def get(self, user: str, address: str, status: int = 200) -> "Page":
        answer = self.client(user).get(address)
        assert answer.status_code == status, answer.text[:2000]
        return Page.of(answer.text)

    def send(self, user: str, address: str, status: int = 303, **fields: Any) -> "Page":
        token = self.get(user, "/account").value("csrf_token")
        answer = self.client(user).post(
            address, data={"csrf_token": token, **fields}, follow_redirects=False
        )
        assert answer.status_code == status, answer.text[:2000]
        return self.get(user, answer.headers["location"]) if status == 303 else Page.of(answer.text)

    def new_case(self, num_images: int = 30, nearest: str = "liver") -> int:
        self.num_cases += 1
        images = [
            CaseImage(
                f"{'i' if self.num_cases == 1 else f'c{self.num_cases}-'}{k:04d}",
                0.6 + k % 30 / 100,
                ((nearest, 0.5), ("spleen", 0.3)),
                k / 10,
                "2026-11-20T08:00:00.000+00:00",
            )
            for k in range(num_images)
        ]
        histogram = (0,) * 12 + (num_images,) + (0,) * 7
        summary = CaseSummary(
            num_images,
            0.7,
            ((nearest, 0.8),),
            {nearest: ("i0001",)},
            histogram,
            (5,) * 20,
            "entropy",
            0.55,
            "1",
            ("i0000", "i0001"),
        )
        return self.services.store.open_case("anna", images, summary)

    def named_case(self, name: str = "bladder", by: Actor = MARA) -> int:
        case = self.new_case()
        self.services.store.act(case, "open", MARA, hospital="anna")
        self.services.store.act(case, "name", by, hospital="anna", class_name=name)
        return case

    def case_in(self, state: str) -> int:
        """A case that went all the way to a state."""
        act = self.services.store.act
        if state == "detected":
            return self.new_case()
        if state in ("in_review", "rejected", "merged"):
            case = self.new_case()
            act(case, "open", MARA, hospital="anna")
            if state == "rejected":
                act(case, "reject", MARA, hospital="anna", reason="noise")
            if state == "merged":
                act(case, "merge", MARA, hospital="anna", class_name="liver")
            return case
        case = self.named_case()
        steps = ("named", "approved", "training", "evaluated", "released", "rolled_back")
        for step in steps[1 : steps.index(state) + 1]:
            if step == "approved":
                act(case, "approve", JONAS, hospital="anna")
            elif step == "training":
                act(
                    case,
                    "start_training",
                    JONAS,
                    hospital="anna",
                    training_id=self.training("running"),
                )
            elif step == "evaluated":
                act(case, "finish_training", SYSTEM, hospital=None, candidate_version="2")
            elif step == "released":
                act(case, "release", JONAS, hospital="anna")
            else:
                act(case, "roll_back", JONAS, hospital="anna", reason="a patient was named wrongly")
        return case

    def training(self, state: str, error: str = "", overall: str = "") -> str:
        jobs = self.services.jobs
        job = jobs.add("training", "jonas", "approver")
        folder = jobs.folder / job.job_id
        at = NOW.isoformat()
        lines = [{"at": at, "step": "prepare", "done": 1, "of": 1, "text": "3 hospitals"}] + [
            {
                "at": at,
                "step": "round",
                "done": k,
                "of": 4,
                "text": f"Round {k}",
                "losses": {"a": 1 / k},
                "accuracy": k / 8,
                "eta_seconds": 90,
            }
            for k in (1, 2)
        ]
        if state != "waiting":
            (folder / "progress.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines)
            )
        if overall:
            (folder / "comparison.json").write_text(json.dumps(comparison(overall)))
        job = replace(
            job, state=state, error=error, started=at, settled=state not in ("waiting", "running")
        )
        (folder / "state.json").write_text(json.dumps(asdict(job)))
        return job.job_id


class Page(HTMLParser):
    """What a page consists of, for questions of the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.source = ""
        self.labelled: set[int] = set()
        self._open: list[str] = []

    @classmethod
    def of(cls, source: str) -> "Page":
        page = cls()
        page.source = source
        page.feed(source)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "label" in self._open:
            self.labelled.add(len(self.tags))
        self.tags.append((tag, dict(attrs)))
        if tag not in ("area", "br", "hr", "img", "input", "link", "meta"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, (
            f"</{tag}> closes {self._open[-4:]} at {self.getpos()}"
        )
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def left_open(self) -> list[str]:
        return self._open

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.tags
            if name == tag and all(found.get(k) == v for k, v in wanted.items())
        ]

    def value(self, name: str) -> str:
        return str(self.all("input", name=name)[0]["value"])

    @property
    def actions(self) -> set[str]:
        return {str(form["action"]) for form in self.all("form") if form.get("method") == "post"}


def comparison(overall: str) -> dict[str, Any]:
    numbers = {
        "digest": "d",
        "class_names": [*KNOWN],
        "accuracy": 0.9,
        "macro_f1": 0.88,
        "calibration_error": 0.04,
        "num_images": 300,
    }
    classes = [
        {
            "class_name": "bladder",
            "num_images": 50,
            "is_new": True,
            "candidate_accuracy": 0.8,
            "champion_accuracy": None,
            "loss_points": None,
        }
    ]
    classes += [
        {
            "class_name": name,
            "num_images": 80,
            "is_new": False,
            "candidate_accuracy": 0.9 - loss / 100,
            "champion_accuracy": 0.9,
            "loss_points": loss,
        }
        for name, loss in zip(KNOWN, (3.0, -1.0, 0.0), strict=True)
    ]
    rule = {
        "rule": "max_loss_per_old_class_points",
        "subject": "heart",
        "light": overall,
        "measured": 3.0,
        "allowed": 2.0,
        "unit": "points",
    }
    other = {
        "rule": "min_accuracy",
        "subject": "",
        "light": "green",
        "measured": 0.9,
        "allowed": 0.5,
        "unit": "share",
    }
    changed = {
        "hospital": "anna",
        "image_id": "i0001",
        "truth": "heart",
        "before": "heart",
        "after": EVIL,
        "number": 0,
    }
    return {
        "candidate": numbers,
        "champion": {**numbers, "accuracy": 0.85},
        "classes": classes,
        "hospitals": [
            {
                "hospital": "anna",
                "num_images": 300,
                "candidate_accuracy": 0.9,
                "champion_accuracy": 0.85,
                "loss_points": -5.0,
            }
        ],
        "num_changed": 1,
        "num_mended": 0,
        "num_broken": 1,
        "changed": [{**changed, "before_probability": 0.6, "after_probability": 0.7}],
        "verdict": {
            "overall": overall,
            "lights": [{**each, "num_images": 80, "text": "as measured"} for each in (rule, other)],
        },
    }


@pytest.fixture
def open_page() -> Callable[[str], Page]:
    return Page.of


@pytest.fixture
def comparison_of() -> Callable[[str], dict[str, Any]]:
    return comparison


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    settings = ConsoleSettings(
        tmp_path / "console",
        ("anna", "bert"),
        "Test federation",
        secure_cookies=False,
        trusted_hosts=("testserver",),
    )
    make_folder(settings, {"hospitals": ["anna", "bert"]})
    services = make_services(
        settings,
        clock=lambda: NOW,
        hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
    )
    pixels = np.zeros((64, 64), np.uint8)
    services.mirrors["anna"].add(
        [
            MirrorImage(
                f"i{k:04d}",
                "2026-11-20T08:00:00+00:00",
                "p",
                "s",
                "liver" if k % 2 else None,
                pixels,
                "png",
            )
            for k in range(4)
        ]
    )
    services.registry.save_versions(
        [
            {
                "version": 1,
                "aliases": ["champion"],
                "class_names": list(KNOWN),
                "created": "2026-11-20T08:00:00+00:00",
                "accuracy": 0.85,
            }
        ]
    )
    services.catalogue.adopt(KNOWN, "system")
    for user, (role, hospital) in PEOPLE.items():
        services.accounts.add(user, PASSWORD, role, hospital)
    yield Desk(services, make_app(settings, services))
    services.model_answers.close()
