import io
import json
from typing import Any

import pytest
from httpx import Response
from PIL import Image

from tests.federation.console.example_console import World

NASTY = "<script>alert(1)</script>"


def act(world: World, user: str, action: str, case: str = "north", **more: Any) -> Response:
    # In ASCII, so that half a surrogate pair travels as an escape.
    body = json.dumps({"action": action, **more})
    response: Response = world.client(user).post(
        f"/api/v1/cases/{world.cases[case]}/act",
        content=body,
        headers={"Content-Type": "application/json"},
    )
    return response


def test_a_case_is_reviewed_named_and_approved_by_programs_alone(world: World) -> None:
    assert act(world, "ada", "open").json()["case"]["state"] == "in_review"
    ada = world.client("ada")
    changed = ada.post(
        f"/api/v1/cases/{world.cases['north']}/select",
        json={"image_ids": ["dnorth1"], "selected": False},
    ).json()
    assert (changed["num_selected"], changed["num_images"]) == (2, 3)
    body = {
        "class_name": "kidney",
        "code_system": "SNOMED CT",
        "code": "64033007",
        "revision": changed["revision"],
    }
    assert act(world, "ada", "name", **body).json()["case"]["class_name"] == "kidney"
    done = act(world, "ben", "approve").json()
    assert (done["case"]["state"], done["job"]) == ("approved", None)
    steps = [
        each["action"] for each in ada.get(f"/api/v1/cases/{world.cases['north']}/decisions").json()
    ]
    assert steps == ["open", "name", "approve"]


@pytest.mark.parametrize(
    ("user", "action", "more", "status"),
    [
        ("ada", "name", {"class_name": "kidney"}, 409),  # not opened
        ("ada", "approve", {}, 403),  # an approver's
        ("ben", "start_training", {}, 409),  # not approved
        ("ada", "reject", {}, 409),  # without a reason
        ("ada", "reject", {"revision": 99, "reason": "noise"}, 409),  # changed since
        ("ada", "release", {}, 422),
        ("ada", "open", {"nonsense": 1}, 422),
        ("ada", "reject", {"reason": "\ud800"}, 422),
        ("ada", "reject", {"reason": "x\0"}, 422),
    ],
)
def test_an_impossible_action_gets_a_clear_error(
    shared_world: World, user: str, action: str, more: dict[str, Any], status: int
) -> None:
    answer = act(shared_world, user, action, **more)
    assert answer.status_code == status and answer.json()["error"]["message"]


def test_a_name_similar_to_a_known_one_is_answered_with_a_suggestion(world: World) -> None:
    act(world, "ada", "open")
    answer = act(world, "ada", "name", class_name="spleens")
    assert (answer.status_code, answer.json()["error"]["suggestions"][0]["entry"]["name"]) == (
        409,
        "spleen",
    )
    assert act(world, "ada", "name", class_name="spleens", confirmed=True).status_code == 200


def test_a_script_in_a_name_or_reason_is_shown_as_text_everywhere(world: World) -> None:
    ada = world.client("ada")
    act(world, "ada", "open")
    assert (
        act(world, "ada", "name", class_name=NASTY).status_code == 409
    )  # the catalogue takes no such name
    assert (
        NASTY
        not in ada.post(f"/cases/{world.cases['north']}/name", data={"class_name": NASTY}).text
    )
    act(world, "ada", "reject", reason=f"other: {NASTY}")
    plain = {"name": "kidney", "text": NASTY, "synonyms": ["ren"]}
    assert ada.post("/api/v1/catalogue", json=plain).status_code == 200
    for user, address in (
        ("ada", f"/cases/{world.cases['north']}"),
        ("olu", "/audit"),
        ("ada", "/catalogue"),
        ("ada", "/cases"),
    ):
        page = world.client(user).get(address)
        assert page.status_code == 200 and NASTY not in page.text


def test_a_hostile_name_in_the_store_is_shown_as_text(world: World) -> None:
    """The store takes any printable name; pages must not rely on the stricter catalogue."""
    from twin.review.workflow import Actor, Role

    ada = Actor("ada", Role.CLINICIAN)
    world.services.store.act(world.cases["north"], "open", ada, hospital="north")
    world.services.store.act(world.cases["north"], "name", ada, hospital="north", class_name=NASTY)
    for user, address in (
        ("ben", f"/cases/{world.cases['north']}"),
        ("ben", "/cases"),
        ("ben", "/"),
        ("olu", "/cases"),
        ("aud", "/audit"),
    ):
        page = world.client(user).get(address)
        assert page.status_code == 200 and NASTY not in page.text


@pytest.mark.parametrize(
    "address",
    [
        "/cases/{case}?page=2&order=%3Cscript%3E",
        "/login?next=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/%3Cscript%3E",
    ],
)
def test_no_part_of_an_address_is_shown_as_markup(shared_world: World, address: str) -> None:
    for user in ("ada", None):
        assert "<script>" not in shared_world.client(user).get(
            address.format(case=shared_world.cases["north"])
        ).text.replace("<script src", "")


def test_images_are_those_of_the_mirror(shared_world: World) -> None:
    answer = shared_world.client("ada").get("/api/v1/images/north/dnorth0.png")
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == (
        "image/png",
        "no-store",
    )
    assert Image.open(io.BytesIO(answer.content)).size == (16, 16)


def test_examples_show_image_and_attention(shared_world: World) -> None:
    ada, address = shared_world.client("ada"), f"/comparisons/{shared_world.training_id}/examples/0"
    assert Image.open(io.BytesIO(ada.get(f"{address}/image.png").content)).mode == "L"
    assert Image.open(io.BytesIO(ada.get(f"{address}/after.png").content)).mode == "RGBA"
    assert (
        ada.get(f"{address}/before.png").status_code == 200
    )  # no evidence: the picture that says so
    assert (
        ada.get(f"/comparisons/{shared_world.training_id}/examples/7/image.png").status_code == 404
    )
    assert ada.get(f"{address}/weights.png").status_code == 404


def test_lists_come_in_pages(shared_world: World) -> None:
    first = shared_world.client("ada").get("/api/v1/cases").json()
    assert (first["total"], first["page"], first["num_pages"]) == (2, 1, 1)
    assert shared_world.client("olu").get("/api/v1/cases").json()["total"] == 3
    assert shared_world.client("ada").get("/api/v1/cases?state=evaluated").json()["total"] == 1
    assert shared_world.client("ada").get("/api/v1/cases?page=0").status_code == 422


def test_an_operator_sees_the_federation_and_adds_people(world: World) -> None:
    olu = world.client("olu")
    plain = olu.get("/api/v1/operator").json()
    assert [each["hospital"] for each in plain["hospitals"]] == ["north", "south"]
    assert plain["champion"]["version"] == "1" and plain["trainings"][0]["light"] == "green"
    new = {
        "user": "eva",
        "password": "a long enough password",
        "role": "clinician",
        "hospital": "south",
    }
    assert olu.post("/api/v1/users", json=new).json()["user"] == "eva"
    for change in (
        {"user": "eva"},
        {"user": "x", "hospital": "nowhere"},
        {"user": "x", "role": "operator"},
        {"user": "x", "password": "short"},
    ):
        assert olu.post("/api/v1/users", json={**new, **change}).status_code == 409
    assert olu.post("/api/v1/users/olu/disable").status_code == 409  # not oneself
    assert olu.post("/api/v1/users/nobody/disable").status_code == 404


def test_the_audit_log_is_shown_and_verified(world: World) -> None:
    aud = world.client("aud")
    assert aud.get("/api/v1/audit").json()["items"][0]["number"] > 5
    assert aud.get("/api/v1/audit/verify").json() == {"num_faults": 0, "faults": []}


def test_the_twins_page_says_what_is_reported_and_desired(shared_world: World) -> None:
    plain = shared_world.client("ada").get("/api/v1/twin").json()
    assert (
        plain["hospital"],
        plain["desired_version"],
        plain["reported_version"],
        plain["in_step"],
    ) == ("north", "1", None, False)
    assert shared_world.client("olu").get("/api/v1/twins/south").json()["num_images"] == 3
    assert shared_world.client("olu").get("/api/v1/twins/nowhere").status_code == 404


def test_a_training_is_followed_by_asking_again(shared_world: World) -> None:
    plain = shared_world.client("ada").get(f"/api/v1/trainings/{shared_world.training_id}").json()
    assert (plain["job"]["state"], plain["fraction"], plain["steps"][0]["step"]) == (
        "done",
        1.0,
        "round",
    )
    assert not {"pid", "process_started"} & set(plain["job"])
    assert shared_world.client("ada").get("/api/v1/trainings/nothing").status_code == 404


def test_every_route_of_the_api_is_in_the_openapi_document(shared_world: World) -> None:
    from federation.console.roles import ROUTES

    paths = shared_world.client().get("/api/v1/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == {
        (method, path)
        for method, path in ROUTES
        if path.startswith("/api/") and not path.endswith("openapi.json")
    }
