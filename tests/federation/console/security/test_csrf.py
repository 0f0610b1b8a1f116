import re
from typing import Any

import pytest

from federation.console.security.csrf import csrf_token, seal, unseal
from tests.federation.console.example_console import World


@pytest.fixture
def case(world: World) -> str:
    return f"/cases/{world.cases['north']}/open"


def state_of(world: World) -> str:
    return str(world.services.store.case(None, world.cases["north"]).state)


def test_a_form_of_the_console_is_accepted(world: World, case: str) -> None:
    client = world.client("ada")
    del client.headers["X-CSRF-Token"]
    page = client.get(f"/cases/{world.cases['north']}").text
    token = re.search(r'name="csrf_token" value="([0-9a-f]+)"', page)
    assert token is not None
    own_site = {"Origin": "http://localhost"}
    assert client.post(case, data={"csrf_token": token[1]}, headers=own_site).status_code == 303
    assert state_of(world) == "in_review"


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é"])
def test_a_form_without_the_right_token_is_refused(
    world: World, case: str, token: str | None
) -> None:
    client = world.client("ada")
    del client.headers["X-CSRF-Token"]
    answer = client.post(case, data={} if token is None else {"csrf_token": token})
    assert answer.status_code == 403 and "token" in answer.text
    assert state_of(world) == "detected"


def test_another_sessions_token_is_refused(world: World, case: str) -> None:
    client, other = world.client("ada"), world.client("ada")
    client.headers["X-CSRF-Token"] = other.headers["X-CSRF-Token"]
    assert client.post(case).status_code == 403
    assert state_of(world) == "detected"


def test_a_token_in_the_address_does_not_count(world: World, case: str) -> None:
    client = world.client("ada")
    token = client.headers.pop("X-CSRF-Token")
    assert client.post(f"{case}?csrf_token={token}").status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_request_from_another_site_is_refused_even_with_the_token(
    world: World, case: str, headers: dict[str, Any]
) -> None:
    assert world.client("ada").post(case, headers=headers).status_code == 403
    assert state_of(world) == "detected"


def test_the_api_with_a_cookie_needs_the_header(world: World) -> None:
    client = world.client("ada")
    address, body = f"/api/v1/cases/{world.cases['north']}/act", {"action": "open"}
    token = client.headers.pop("X-CSRF-Token")
    assert client.post(address, json=body).status_code == 403
    assert client.post(address, json=body, headers={"X-CSRF-Token": token}).status_code == 200


def test_another_site_cannot_log_a_browser_in(world: World) -> None:
    client = world.client()
    assert (
        client.post(
            "/login", data={"user": "ada", "password": "a long enough password"}
        ).status_code
        == 403
    )
    assert "fedka-session" not in client.cookies


def test_a_seal_is_valid_for_one_purpose_and_one_value() -> None:
    sealed = seal(b"key", "flash", "value")
    assert unseal(b"key", "flash", sealed) == "value"
    assert [
        unseal(b"key", "csrf", sealed),
        unseal(b"other", "flash", sealed),
        unseal(b"key", "flash", "x" + sealed),
        unseal(b"key", "flash", ""),
    ] == [None] * 4
    assert csrf_token(b"key", "a") != csrf_token(b"key", "b") != csrf_token(b"other", "b")
