import pytest

from federation.console.roles import ANYBODY, ROUTES
from federation.console.security.guard import RouteTableError, check_route_table, page_router
from tests.federation.console.example_console import World

PEOPLE_BY_ROLE = {"clinician": "ada", "approver": "ben", "operator": "olu", "auditor": "aud"}
TABLE = [
    (method, pattern, role) for method, pattern in ROUTES for role in (*PEOPLE_BY_ROLE, "nobody")
]

# Statuses of an allowed POST with an empty body: it passed the guard and was refused or harmless.
HARMLESS = {200, 204, 302, 303, 404, 409, 422}


def address_of(world: World, pattern: str) -> str:
    values = {
        "case_id": world.cases["north"],
        "training_id": world.training_id,
        "hospital": "north",
        "image_id": "dnorth0",
        "entry_id": 1,
        "user": "nobody",
        "number": 0,
        "kind": "after",
        "action": "nothing",
    }
    address = pattern.format(**values)
    if "overlays" in address:
        return f"{address}?class=liver"
    return f"{address}?name=liver" if address.endswith("suggestions") else address


@pytest.mark.parametrize(("method", "pattern", "role"), TABLE)
def test_every_route_answers_every_role_as_the_table_says(
    shared_world: World, method: str, pattern: str, role: str
) -> None:
    client = shared_world.client(PEOPLE_BY_ROLE.get(role))
    answer = client.request(method, address_of(shared_world, pattern))
    allowed = ROUTES[method, pattern]
    if role == "nobody" and allowed is not ANYBODY:
        if pattern.startswith(("/api/", "/images/", "/overlays/")):
            assert answer.status_code == 401
        else:
            assert (answer.status_code, answer.headers["location"][:6]) == (302, "/login")
    elif allowed is not ANYBODY and role not in allowed:
        assert answer.status_code == 403
    elif "overlays" in pattern or pattern.endswith("predictions"):
        assert answer.status_code in {422, 503}  # there is no model in this world
    elif (method, pattern) == ("POST", "/login"):
        assert answer.status_code in {
            303,
            401,
            403,
            422,
        }  # a password and the form's token are missing
    elif method == "GET":
        assert answer.status_code == (303 if pattern == "/login" and role != "nobody" else 200)
    elif role == "nobody":
        assert answer.status_code in {303, 403, 422}  # without the token that came with the form
    else:
        assert answer.status_code in HARMLESS


@pytest.mark.parametrize(
    "address",
    [
        "/cases/{south}",
        "/cases/{south}/images",
        "/api/v1/cases/{south}",
        "/api/v1/cases/{south}/images",
        "/api/v1/cases/{south}/decisions",
        "/images/south/dsouth0.png",
        "/api/v1/images/south/dsouth0.png",
        "/overlays/south/dsouth0.png?class=liver",
        "/images/north/dsouth0.png",
        "/images/nowhere/dsouth0.png",
    ],
)
@pytest.mark.parametrize("user", ["ada", "ben"])
def test_things_of_another_hospital_are_not_found(
    shared_world: World, address: str, user: str
) -> None:
    assert shared_world.client(user).get(address.format(**shared_world.cases)).status_code == 404


@pytest.mark.parametrize("action", ["open", "reject", "reopen"])
def test_another_hospitals_case_cannot_be_acted_on(shared_world: World, action: str) -> None:
    case_id = shared_world.cases["south"]
    ada = shared_world.client("ada")
    assert ada.post(f"/cases/{case_id}/{action}", data={"reason": "noise"}).status_code == 404
    assert (
        ada.post(
            f"/api/v1/cases/{case_id}/act", json={"action": action, "reason": "noise"}
        ).status_code
        == 404
    )
    assert (
        ada.post(
            f"/api/v1/cases/{case_id}/select", json={"image_ids": ["dsouth0"], "selected": False}
        ).status_code
        == 404
    )
    assert shared_world.services.store.case(None, case_id).revision == 1


def test_examples_of_a_comparison_stay_in_their_hospital(shared_world: World) -> None:
    address = f"/comparisons/{shared_world.training_id}"
    assert "examples" in shared_world.client("ben").get(f"/api/v1{address}").json()
    assert len(shared_world.client("ben").get(f"/api/v1{address}").json()["examples"]) == 1
    for user in ("dee", "olu", "aud"):
        plain = shared_world.client(user).get(f"/api/v1{address}").json()
        assert plain["examples"] == [] == plain["comparison"]["changed"]
    assert shared_world.client("dee").get(f"{address}/examples/0/image.png").status_code == 404


def test_pages_of_operators_and_auditors_contain_no_image(shared_world: World) -> None:
    for user in ("olu", "aud"):
        client = shared_world.client(user)
        for address in ("/operator", "/", "/trainings", f"/comparisons/{shared_world.training_id}"):
            assert "/images/" not in client.get(address).text


def test_a_route_without_a_row_stops_the_program() -> None:
    router = page_router()
    router.get("/secret")(lambda: None)
    with pytest.raises(RouteTableError, match="without a row in ROUTES: GET /secret"):
        check_route_table([router])


def test_a_row_without_a_route_stops_the_program() -> None:
    with pytest.raises(RouteTableError, match="without a route"):
        check_route_table([])
