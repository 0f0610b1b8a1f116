import json
import socket
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families

from federation.flare.event_feed import Activity
from federation.flare.health import HealthError, Vitals, answer, look, metrics, serve_health
from federation.flare.manifests import alerts
from federation.flare.server import ServerPlace

STATUS = {
    "state": "running",
    "round": 7,
    "rounds_done": 7,
    "num_rounds": 10,
    "minimum_hospitals": 3,
    "accuracy": 0.75,
    "num_classes": 4,
    "seconds": 1.5,
    "rejected": 1,
    "bytes_up": 1000,
    "bytes_down": 2000,
    "hospitals": {
        "north": {"state": "present", "last_round": 7},
        "south": {"state": "suspect", "last_round": 3, "reason": "did not answer"},
        'e"ast': {"state": "expected"},
    },
}


def vitals(state: str = "running", age: float | None = 10.0, **more: Any) -> Vitals:
    return Vitals({**STATUS, "state": state}, age, 100.0, **more)


def values(content: bytes) -> dict[Any, Any]:
    families = text_string_to_metric_families(content.decode())
    return {
        (each.name, *each.labels.values()): each.value
        for family in families
        for each in family.samples
    }


@pytest.mark.parametrize(
    ("state", "age", "healthy", "ready"),
    [
        ("running", 10.0, 200, 200),
        ("running", 101.0, 503, 503),  # nothing has happened for longer than a stage may take
        ("waiting", 5000.0, 200, 503),  # for hospitals, as long as it takes
        ("paused", 10.0, 200, 503),
        ("finished", 5000.0, 200, 200),
        ("failed", 1.0, 503, 503),
    ],
)
def test_whoever_waits_is_well_and_whoever_failed_or_stands_is_not(
    state: str, age: float, healthy: int, ready: int
) -> None:
    assert answer("/healthz", vitals(state, age))[0] == healthy
    assert answer("/readyz", vitals(state, age))[0] == ready
    assert json.loads(answer("/healthz", vitals(state, age))[2])["last_event_age_seconds"] == age


def test_before_anything_has_happened_it_is_well_and_not_ready() -> None:
    nothing = Vitals({}, None, 100.0)
    assert answer("/healthz", nothing)[0] == 200 and answer("/readyz", nothing)[0] == 503
    assert ("fedka_accuracy",) not in values(metrics(nothing))


def test_metrics_say_what_the_status_says() -> None:
    said = values(metrics(vitals(sessions=3, expires=datetime(2030, 1, 1, tzinfo=UTC))))
    plain = {
        ("fedka_healthy",): 1,
        ("fedka_round",): 7,
        ("fedka_rounds_done",): 7,
        ("fedka_rounds_planned",): 10,
        ("fedka_hospitals_minimum",): 3,
        ("fedka_accuracy",): 0.75,
        ("fedka_classes",): 4,
        ("fedka_round_seconds",): 1.5,
        ("fedka_round_rejected_updates",): 1,
        ("fedka_round_bytes", "up"): 1000,
        ("fedka_round_bytes", "down"): 2000,
        ("fedka_sessions_total",): 3,
        ("fedka_last_event_age_seconds",): 10,
        ("fedka_certificate_expiry_timestamp_seconds",): datetime(
            2030, 1, 1, tzinfo=UTC
        ).timestamp(),
        ("fedka_state", "running"): 1,
        ("fedka_state", "failed"): 0,
        ("fedka_hospital_state", "north", "present"): 1,
        ("fedka_hospital_state", "north", "suspect"): 0,
        ("fedka_hospital_state", "south", "suspect"): 1,
        ("fedka_hospital_state", 'e"ast', "expected"): 1,
        ("fedka_hospital_last_round", "south"): 3,
    }
    assert {name: said[name] for name in plain} == plain


def test_every_alert_asks_for_a_metric_that_there_is() -> None:
    there = {name[0] for name in values(metrics(vitals(expires=datetime.now(UTC))))} | {"up"}
    for rule in alerts()["groups"][0]["rules"]:
        assert any(name in rule["expr"] for name in there), rule


def test_what_is_not_known_is_not_found() -> None:
    assert answer("/", vitals())[0] == 404 and answer("/healthz?x=1", vitals())[0] == 200


@pytest.fixture
def place(tmp_path: Path) -> tuple[Any, ...]:
    kit = tmp_path / "server"
    (kit / "fedka").mkdir(parents=True)
    (kit / "fedka" / "server.yaml").write_text(
        yaml.safe_dump({"hospitals": ["north"], "metrics_port": 0})
    )
    return ServerPlace(kit / "fedka"), kit


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_is_served_while_it_is_entered_and_follows_the_status(place: tuple[Any, ...]) -> None:
    server, kit = place
    sessions = [1]
    with serve_health(server, kit, lambda: sessions[0]) as port:
        assert fetch(cast(Any, port), "/readyz")[0] == 503
        Activity(server.folder).tell({"event": "state", "state": "running", "hospitals": ["north"]})
        sessions[0] = 2
        assert fetch(cast(Any, port), "/readyz")[0] == 200
        assert (
            'fedka_hospital_state{hospital="north",state="expected"} 1.0'
            in fetch(cast(Any, port), "/metrics")[1]
        )
        assert "fedka_sessions_total 2.0" in fetch(cast(Any, port), "/metrics")[1]
        Activity(server.folder).tell(
            {"event": "state", "state": "failed", "reason": "for a reason"}
        )
        code, said = fetch(cast(Any, port), "/healthz")
        assert code == 503 and json.loads(said)["state"] == "failed"
        assert fetch(cast(Any, port), "/nothing")[0] == 404
    with pytest.raises(urllib.error.URLError):
        fetch(cast(Any, port), "/healthz")


def test_without_a_port_nothing_is_served(place: tuple[Any, ...]) -> None:
    server, kit = place
    (server.folder / "server.yaml").write_text(yaml.safe_dump({"hospitals": ["north"]}))
    with serve_health(ServerPlace(server.folder), kit, lambda: 0) as port:
        assert port is None


def test_a_port_that_is_taken_is_an_error_with_advice(place: tuple[Any, ...]) -> None:
    server, kit = place
    with socket.create_server(("127.0.0.1", 0)) as other:
        (server.folder / "server.yaml").write_text(
            yaml.safe_dump({"hospitals": [], "metrics_port": other.getsockname()[1]})
        )
        with (
            pytest.raises(HealthError, match="another metrics_port"),
            serve_health(ServerPlace(server.folder), kit, lambda: 0),
        ):
            pass


def test_without_the_package_it_says_what_to_install(
    place: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, kit = place
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        pytest.raises(HealthError, match=r"pip install 'fedka\[flare\]'"),
        serve_health(server, kit, lambda: 0),
    ):
        pass


def test_a_stage_may_take_as_long_as_its_deadline(place: tuple[Any, ...]) -> None:
    server, kit = place
    Activity(server.folder).tell({"event": "state", "state": "running"})
    patience = 2 * server.config.link.deadline_seconds
    for later, healthy in ((patience, True), (patience + 3600, False)):
        now = datetime.now(UTC) + timedelta(seconds=later)
        assert look(server, kit, 0, lambda now=now: now).is_healthy == healthy  # type: ignore[misc]  # untyped on purpose
