import json
from pathlib import Path

import pytest

pytest.importorskip("nvflare")
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.security.security import FLAuthorizer

from federation.flare.flare_job import write_job
from federation.flare.kit_settings import settle_hospital
from federation.flare.request_filter import ANSWERED, HospitalGate, OnlyConfiguration


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "resources.json.default").write_text(
        json.dumps({"format_version": 2, "components": [{"id": "site_log_streamer"}]})
    )
    settle_hospital(tmp_path)
    return tmp_path


def test_a_hospitals_flare_is_left_the_requests_of_a_jobs_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = list(ClientRequestProcessors.request_processors)
    monkeypatch.setattr(ClientRequestProcessors, "request_processors", known)
    before = {topic for each in known for topic in each.get_topics()}
    HospitalGate().handle_event(EventType.SYSTEM_START, FLContext())
    assert (
        {topic for each in known for topic in each.get_topics()}
        == before
        >= {"sys.shell", "train.shutdown"}
    )
    HospitalGate().handle_event(EventType.SYSTEM_BOOTSTRAP, FLContext())
    assert {topic for each in known for topic in each.get_topics()} == set(ANSWERED)


def test_our_own_job_is_a_configuration_and_nothing_else(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", ["north"])
    for place in ("server", "hospital"):
        for signed in (".__nvfl_sig.json", ".__nvfl_submitter.crt", "config/.__nvfl_sig.json"):
            (job / place / signed).touch()
        assert OnlyConfiguration().validate(str(job / place)) == ("", {})


@pytest.mark.parametrize(
    "more",
    [
        "custom/brought.py",
        "brought.py",
        "config/brought.py",
        "config/more.json",
        "custom/.__nvfl_sig.json",
        "fobs/x",
    ],
)
def test_an_application_that_brings_more_is_refused(tmp_path: Path, more: str) -> None:
    folder = write_job(tmp_path / "job", ["north"]) / "hospital"
    (folder / more).parent.mkdir(exist_ok=True)
    (folder / more).touch()
    assert (
        "allowed here: its configuration and nothing else"
        in OnlyConfiguration().validate(str(folder))[0]
    )


@pytest.mark.parametrize(
    ("right", "may"),
    [
        ("submit_job", True),
        ("abort_job", True),
        ("check_status", True),
        ("byoc", False),
        ("cat", False),
        ("ls", False),
        ("clone_job", False),
    ],
)
def test_the_operator_may_begin_sessions_and_neither_read_files_nor_bring_code(
    kit: Path, right: str, may: bool
) -> None:
    authorizer = FLAuthorizer(
        "federation", json.loads((kit / "local" / "authorization.json").read_text())
    )
    operator = Person("operator@federation.org", "federation", "project_admin")
    assert authorizer.authorize(AuthzContext(right, operator, operator))[0] is may
    assert not authorizer.authorize(
        AuthzContext(right, Person("north", "federation", "lead"), operator)
    )[0]


def test_a_kit_has_the_gate(kit: Path) -> None:
    resources = json.loads((kit / "local" / "resources.json").read_text())
    assert [each["path"] for each in resources["components"] if each["id"] == "gate"] == [
        "federation.flare.request_filter.HospitalGate"
    ]
    assert resources["app_validator"]["path"] == "federation.flare.request_filter.OnlyConfiguration"
    assert (
        resources["class_list_enforcement_mode"] == "enforce"
        and "*" not in resources["class_allow_list"]
    )
