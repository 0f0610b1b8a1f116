"""Schemathesis tries requests that the OpenAPI document allows and forbids, as each role."""

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from tests.federation.console.example_console import World

pytestmark = pytest.mark.slow
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FEW = settings(
    max_examples=2,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("user", ["ada", "ben", "olu", "aud"])
def test_no_request_gets_a_fault_or_an_undescribed_answer(world: World, user: str) -> None:
    schema = schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json", world.app, headers={"host": "localhost"}
    )
    there = {
        "case_id": world.cases["north"],
        "training_id": world.training_id,
        "hospital": "north",
        "image_id": "dnorth0",
        "entry_id": 3,
    }
    client, seen = world.client(), Counter[int]()
    for found in schema.get_all_operations():
        token = world.services.accounts.open_session(user)  # one each: logging out ends one
        assert isinstance(found, Ok)
        try_out(
            found.ok(),
            client,
            {"host": "localhost", "authorization": f"Bearer {token}"},
            there,
            seen,
        )
    assert min(seen[status] for status in (200, 403, 404, 409, 422)) > 1, seen


def try_out(
    operation: Any,
    client: TestClient,
    headers: dict[str, Any],
    there: dict[str, Any],
    seen: Counter[int],
) -> None:
    """Send allowed and forbidden requests, as generated and with ids that exist."""

    def attempt(case: Any) -> None:
        seen[
            case.call_and_validate(headers=headers, session=client, checks=CHECKS).status_code
        ] += 1
        names = set(case.path_parameters or ()) & set(there)
        if names:
            case.path_parameters.update({name: there[name] for name in names})
            seen[
                case.call_and_validate(headers=headers, session=client, checks=CHECKS).status_code
            ] += 1

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        with suppress(Unsatisfiable):  # nothing can be wrong with a request that says nothing
            FEW(given(case=operation.as_strategy(generation_mode=mode))(attempt))()
