"""From a case to a released model and back, with the real processes and a small network."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from physical.mirror import MirrorImage
from tests.federation.console.example_console import World

pytestmark = pytest.mark.slow
SIDE = 16
ADDITION = {
    "rounds": 4,
    "network": {"backbone": "lenet", "width": 4, "image_size": SIDE},
    "training": {
        "epochs": 3,
        "batch_size": 8,
        "augmentation": {"crop_padding_pixels": 0, "brightness": 0.0},
    },
}
RULES = {
    "max_loss_per_old_class_points": 100.0,
    "max_loss_of_old_classes_points": 100.0,
    "max_loss_per_hospital_points": 100.0,
}


def picture(name: str, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Stripes: lying, standing, or, for the unknown organ, a bright spot."""
    stripes = np.tile(np.where(np.arange(SIDE) % 8 < 4, 200, 40), (SIDE, 1))
    clean = {"liver": stripes, "spleen": stripes.T, "kidney": np.pad(np.full((8, 8), 220), 4)}[name]
    noise = np.random.default_rng([len(name), number]).normal(0, 20, (SIDE, SIDE))
    return np.clip(clean + noise, 0, 255).astype(np.uint8)


def fill(world: World) -> None:
    for hospital, mirror in world.services.mirrors.items():
        for name in ("liver", "spleen", "kidney"):
            known = None if name == "kidney" else name
            at = "2026-02-20T08:00:00+00:00"
            start = 100 if hospital == "south" else 0
            mirror.add(
                [
                    MirrorImage(
                        f"{hospital}-{name}-{index}",
                        at,
                        f"p{index % 5}",
                        "s",
                        known,
                        picture(name, start + index),
                        "png",
                    )
                    for index in range(24)
                ]
            )


def first_model(world: World) -> None:
    from federation.class_addition.first_champion import make_first_champion

    settings = world.settings
    made = make_first_champion(
        {hospital: settings.hospital(hospital).mirror for hospital in settings.hospitals},
        settings.folder,
        settings.models_url,
        settings.model_name,
        settings.models_folder,
        class_names=["liver", "spleen"],
        config=ADDITION,
        rules=settings.release_rules,
    )
    world.services.registry.save_versions(made["versions"])


def run_jobs(world: World) -> None:
    """Run the queue until no job waits or runs, and wait for each process."""
    while world.services.jobs.run_once():
        for job in world.services.jobs.find():
            if job.state == "running":
                assert job.pid is not None
                os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)


def open_case(world: World) -> int:
    from twin.review.cases import CaseImage, CaseSummary

    ids = [f"north-kidney-{index}" for index in range(24)]
    images = [
        CaseImage(each, 0.7, (("liver", 0.4),), 0.1, "2026-02-20T08:00:00+00:00") for each in ids
    ]
    summary = CaseSummary(
        24, 0.7, (("liver", 0.6),), {}, (0,) * 20, (0,) * 20, "entropy", 0.5, "1", tuple(ids[:2])
    )
    return world.services.store.open_case("north", images, summary)


def test_a_new_class_is_named_approved_trained_released_and_rolled_back(
    world_with: Callable[..., World],
) -> None:
    world = world_with(
        train_on_approval=True, addition=ADDITION, release_rules=RULES, explain_seconds=900
    )
    fill(world)
    first_model(world)
    ada, ben = world.client("ada"), world.client("ben")
    case = f"/api/v1/cases/{open_case(world)}"

    def act(client: TestClient, action: str, **more: Any) -> dict[str, Any]:
        answer = client.post(f"{case}/act", json={"action": action, **more})
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def seen() -> dict[str, Any]:
        body = {"image_ids": ["north-kidney-0", "north-kidney-1"]}
        result: dict[str, Any] = ada.post("/api/v1/predictions", json=body).json()
        return result

    act(ada, "open")
    ada.post(f"{case}/select", json={"image_ids": ["north-kidney-23"], "selected": False})
    act(ada, "name", class_name="kidney")
    training = act(ben, "approve")["job"]["job_id"]
    run_jobs(world)
    followed = ben.get(f"/api/v1/trainings/{training}").json()
    assert followed["job"]["state"] == "done", followed["job"]["error"]
    assert (followed["fraction"], followed["cases"][0]["state"]) == (1.0, "evaluated")
    assert sum(each["step"] == "round" for each in followed["steps"]) >= 4
    compared = ben.get(f"/api/v1/comparisons/{training}").json()
    assert compared["actions"] == ["release"] and compared["version"] == "2"
    before = seen()
    assert before["version"] == "1" and all(
        each["class_name"] != "kidney" for each in before["predictions"]
    )

    assert (
        ben.post(f"/api/v1/comparisons/{training}/release", json={"reason": "seen"}).status_code
        == 200
    )
    run_jobs(world)
    assert ada.get(case).json()["state"] == "released"
    after = seen()
    assert after["version"] == "2" and {each["class_name"] for each in after["predictions"]} == {
        "kidney"
    }

    back = world.client("olu").post(
        f"/api/v1/comparisons/{training}/roll_back", json={"reason": "a test"}
    )
    assert back.status_code == 200, back.text
    run_jobs(world)
    assert ada.get(case).json()["state"] == "rolled_back"
    assert seen()["version"] == "1"
    assert world.services.audit.verify() == []
