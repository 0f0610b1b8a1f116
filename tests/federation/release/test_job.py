import json
from collections.abc import Callable
from itertools import count
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
    models = tmp_path / "models"
    numbers = count()

    def do(verb: Any, **values: object) -> dict[str, Any]:
        job_id = f"job-{next(numbers)}"
        settings = {"tracking_uri": store, "models_folder": models, "model_name": "organs"}
        job = {"job_id": job_id, "verb": verb, "actor": "grace", **settings, **values}
        return run(tmp_path / job_id, **job)

    assert do("versions") | {"job_digest": ""} == {
        "ok": True,
        "job_digest": "",
        "verb": "versions",
        "version": None,
        "champion": None,
        "versions": [],
        "current": None,
        "folder": None,
    }
    assert "has no champion" in do("fetch")["error"]
    do("release", candidate=champion, comparison=compared(champion, None))
    comparison = compared(candidate, champion)
    registered = do("register", candidate=candidate, comparison=comparison)
    assert (registered["version"], registered["champion"]["version"]) == ("2", "1")
    released = do("release", candidate=candidate, comparison=comparison)
    assert (released["version"], released["current"]["version"]) == ("2", "2")
    assert released["champion"]["class_names"] == list(ORGANS)
    assert Path(released["current"]["folder"]) == models / "version-2"
    back = do("roll_back", version=2, reason="wrong")
    assert (back["version"], back["current"]["version"]) == ("2", "1")
    assert [each["acceptance"] for each in back["versions"]] == ["accepted", "rolled back"]
    assert do("fetch", version=2)["folder"] == str(models / "version-2")
    assert json.loads((models / "current.json").read_text())["version"] == "1"


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
