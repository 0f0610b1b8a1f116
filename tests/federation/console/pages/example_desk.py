"""Users at their browsers in front of an example console with cases and trainings in any state."""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from federation.catalogue.entries import Entry
from federation.console.background_job import State
from federation.console.services import Services
from tests.federation.console.pages.example_comparison import comparison
from tests.federation.console.pages.html_page import Page
from twin.review.cases import CaseImage, CaseSummary
from twin.review.workflow import SYSTEM, Actor, Role

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
PASSWORD = "quiet-heron-42-lamp"
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
        """Return a user's browser; it signs in when first used."""
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

    def entry(self, name: str) -> Entry:
        found = self.services.catalogue.find(name)
        assert found is not None
        return found

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
        """Make a case and bring it into a state."""
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

    def training(self, state: State, error: str = "", overall: str = "") -> str:
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
