import logging
from collections.abc import Callable

import pytest

from federation.console.security.headers import CONTENT_POLICY, HEADERS
from tests.federation.console.example_console import World

ADDRESSES = (
    "/login",
    "/",
    "/cases",
    "/cases/1",
    "/nothing",
    "/api/v1/me",
    "/api/v1/nothing",
    "/images/north/dnorth0.png",
    "/static/console.css",
    "/static/nothing",
)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("user", ["ada", None])
def test_every_answer_carries_the_safe_headers(
    shared_world: World, user: str | None, address: str
) -> None:
    answer = shared_world.client(user).get(address)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert answer.headers["cache-control"] == (
        "public, max-age=3600" if address.startswith("/static/") else "no-store"
    )


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    assert (
        "unsafe" not in CONTENT_POLICY
        and "data:" not in CONTENT_POLICY
        and "http" not in CONTENT_POLICY
    )
    assert (
        CONTENT_POLICY.startswith("default-src 'none'")
        and "frame-ancestors 'none'" in CONTENT_POLICY
    )


def test_refusals_by_the_limit_and_by_the_host_carry_them_too(shared_world: World) -> None:
    client = shared_world.client()
    assert (
        client.post("/login", content=b"x" * (1 << 21)).headers["content-security-policy"]
        == CONTENT_POLICY
    )
    stranger = client.get("/login", headers={"host": "evil.example"})
    assert (stranger.status_code, stranger.headers["x-frame-options"]) == (400, "DENY")


def test_a_fault_is_a_plain_500_without_a_trace(
    shared_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    @shared_world.app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret detail")

    with caplog.at_level(logging.CRITICAL):
        answer = shared_world.client().get("/broken")
    assert (
        answer.status_code == 500 and "secret" not in answer.text and "Traceback" not in answer.text
    )
    assert answer.headers["content-security-policy"] == CONTENT_POLICY


def test_https_is_asked_for_where_cookies_are_secure(world_with: Callable[..., World]) -> None:
    client = world_with(secure_cookies=True).client()
    answer = client.get("/login")
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-fedka-") and all(
        word in cookie for word in ("Secure", "HttpOnly", "SameSite=strict", "Path=/")
    )


def test_the_access_log_names_routes_and_no_person_case_or_image(
    shared_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fedka.console.access"):
        shared_world.client("ada").get("/images/north/dnorth0.png")
    line = caplog.messages[-1]
    assert (
        line.startswith("GET /images/{hospital}/{image_id}.png 200")
        and "ada" not in line
        and "dnorth0" not in line
    )
