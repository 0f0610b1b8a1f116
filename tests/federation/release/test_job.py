import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.jobs.runner import run_job
from federation.release.job import ReleaseJob, run_release

ORGANS = ("liver", "spleen", "heart", "bladder")


Make = Callable[..., Path]


def run(folder: Path, **job: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job, default=str))
    code = run_job(folder / "job.json", ReleaseJob, run_release)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert (code == 0) is result["ok"]
    return result


def test_jobs_list_register_release_fetch_and_roll_back(
    store: str, tmp_path: Path, model: Make, compared: Make
) -> None:
    champion, candidate = model(ORGANS[:3], 1), model(ORGANS, 2)
    where = {
        "tracking_uri": store,
        "models_folder": tmp_path / "models",
        "model_name": "organs",
        "actor": "grace",
    }
    assert run(tmp_path / "a", job_id="a", verb="versions", **where) | {"job_digest": ""} == {
        **{
            "ok": True,
            "job_digest": "",
            "verb": "versions",
            "version": None,
            "champion": None,
            "versions": [],
            "current": None,
            "folder": None,
        }
    }
    assert "has no champion" in run(tmp_path / "b", job_id="b", verb="fetch", **where)["error"]
    run(
        tmp_path / "c",
        job_id="c",
        verb="release",
        candidate=champion,
        comparison=compared(champion, None),
        **where,
    )
    comparison = compared(candidate, champion)
    registered = run(
        tmp_path / "d",
        job_id="d",
        verb="register",
        candidate=candidate,
        comparison=comparison,
        **where,
    )
    assert (registered["version"], registered["champion"]["version"]) == ("2", "1")
    released = run(
        tmp_path / "e",
        job_id="e",
        verb="release",
        candidate=candidate,
        comparison=comparison,
        **where,
    )
    assert (
        released["version"],
        released["current"]["version"],
        released["champion"]["class_names"],
    ) == ("2", "2", list(ORGANS))
    assert Path(released["current"]["folder"]) == tmp_path / "models" / "version-2"
    back = run(tmp_path / "f", job_id="f", verb="roll_back", version=2, reason="wrong", **where)
    assert (back["version"], back["current"]["version"]) == ("2", "1")
    assert [each["acceptance"] for each in back["versions"]] == ["accepted", "rolled back"]
    assert run(tmp_path / "g", job_id="g", verb="fetch", version=2, **where)["folder"] == str(
        tmp_path / "models" / "version-2"
    )
    assert json.loads((tmp_path / "models" / "current.json").read_text())["version"] == "1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verb": "delete"}, "verb: "),
        ({"verb": "release"}, "needed: candidate"),
        ({"verb": "roll_back"}, "needed: version"),
        ({"models_folder": "models"}, "allowed: an absolute path"),
        ({"job_id": "a'b"}, "job_id: "),
        ({"tracking_uri": "mlruns"}, "put an MLflow server in front"),
        ({"verb": "release", "candidate": "/nowhere"}, "/nowhere/manifest.json cannot be read"),
        ({"extra": 1}, "extra: "),
    ],
)
def test_result_of_an_impossible_job_holds_the_reason(
    store: str, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    job = {
        "job_id": "a",
        "verb": "versions",
        "tracking_uri": store,
        "models_folder": tmp_path / "models",
    }
    result = run(tmp_path / "job", **{**job, **change})
    assert result["ok"] is False
    assert message in result["error"]
