import re
from typing import Any

import pytest
from httpx import Response
from starlette.testclient import TestClient

from federation.console.security.sessions import local_path
from tests.federation.console.example_console import World

PASSWORD = "a long enough password"


def form_token(client: TestClient, path: str = "/login") -> str:
    found = re.search(r'name="csrf_token" value="([0-9a-f]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def log_in(
    client: TestClient, user: str = "ada", password: str = PASSWORD, **more: Any
) -> Response:
    form = {"csrf_token": form_token(client), "user": user, "password": password, **more}
    response: Response = client.post("/login", data=form)
    return response


def test_the_right_password_logs_in(world: World) -> None:
    client = world.client()
    answer = log_in(client)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert client.get("/api/v1/me").json() == {
        "user": "ada",
        "role": "clinician",
        "hospital": "north",
    }
    assert world.services.audit.entries().items[0].what == "login"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("ada", "wrong password here"),
        ("nobody", PASSWORD),
        ("", ""),
        ("ada\0", PASSWORD),
        ("é" * 60, "x"),
    ],
)
def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(
    world: World, user: str, password: str
) -> None:
    client = world.client()
    answer = log_in(client, user, password)
    assert answer.status_code == 401 and "is wrong" in answer.text
    assert client.get("/api/v1/me").status_code == 401


def test_a_login_makes_a_new_session_and_ends_the_one_that_the_browser_had(world: World) -> None:
    client = world.client()
    log_in(client, "ada")
    first = client.cookies["fedka-session"]
    token = world.client("ada")  # the form's token of a session is also sent as a header by scripts
    client.headers["X-CSRF-Token"] = form_token(client, "/cases")
    client.post("/login", data={"user": "ben", "password": PASSWORD})
    assert client.cookies["fedka-session"] != first
    assert world.services.accounts.session(first) is None
    assert token.get("/api/v1/me").status_code == 200


def test_a_session_cookie_chosen_by_an_attacker_is_replaced(world: World) -> None:
    client = world.client()
    client.cookies.set("fedka-session", "chosen-by-the-attacker")
    log_in(client)
    kept = client.cookies.get("fedka-session", domain="localhost.local")
    assert kept != "chosen-by-the-attacker"
    assert world.services.accounts.session("chosen-by-the-attacker") is None


def test_after_logout_the_cookie_of_the_session_is_useless(world: World) -> None:
    client = world.client("ada")
    token = client.cookies["fedka-session"]
    assert client.post("/logout").status_code == 303
    assert world.services.accounts.session(token) is None
    client.cookies.set("fedka-session", token)
    assert client.get("/cases").status_code == 302


def test_an_idle_session_ends(world: World) -> None:
    client = world.client("ada")
    assert client.get("/api/v1/me").status_code == 200
    world.clock.move(minutes=world.settings.idle_minutes + 1)
    assert client.get("/api/v1/me").status_code == 401


def test_a_disabled_account_loses_its_sessions_at_once(world: World) -> None:
    ada = world.client("ada")
    assert world.client("olu").post("/api/v1/users/ada/disable").status_code == 204
    assert ada.get("/api/v1/me").status_code == 401


def test_after_wrong_passwords_even_the_right_one_has_to_wait(world: World) -> None:
    client = world.client()
    statuses = [log_in(client, password="wrong password here").status_code for _ in range(8)]
    assert statuses[0] == 401 and statuses[-1] == 429
    answer = log_in(client)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
    api = client.post("/api/v1/login", json={"user": "ada", "password": PASSWORD})
    assert api.status_code == 429 and int(api.headers["retry-after"]) > 0
    world.clock.move(seconds=int(answer.headers["retry-after"]) + 1)
    assert log_in(client).status_code == 303


def test_login_redirects_to_the_requested_page(world: World) -> None:
    client = world.client()
    assert (
        client.get("/cases/1?page=2").headers["location"] == "/login?next=%2Fcases%2F1%3Fpage%3D2"
    )
    assert log_in(client, next="/cases/1?page=2").headers["location"] == "/cases/1?page=2"


@pytest.mark.parametrize(
    "then",
    [
        "//evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/\\evil.example",
        "evil",
        "",
        "/a\r\nb",
    ],
)
def test_login_redirects_to_no_other_site(then: str) -> None:
    assert local_path(then) == "/"


def test_a_bearer_token_replaces_cookie_and_form_token(world: World) -> None:
    client = world.client()
    token = client.post("/api/v1/login", json={"user": "ada", "password": PASSWORD}).json()["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    case_id = world.cases["north"]
    assert (
        client.post(
            f"/api/v1/cases/{case_id}/act", json={"action": "open"}, headers=bearer
        ).status_code
        == 200
    )
    assert client.post("/api/v1/logout", headers=bearer).status_code == 204
    assert client.get("/api/v1/me", headers=bearer).status_code == 401


@pytest.mark.parametrize("header", ["Bearer", "Bearer nonsense", "Basic YWRhOng=", "", "bearer é"])
def test_a_wrong_authorization_header_is_never_replaced_by_the_cookie(
    world: World, header: str
) -> None:
    client = world.client("ada")
    assert (
        client.get("/api/v1/me", headers={"Authorization": header.encode("latin-1")}).status_code
        == 401
    )
