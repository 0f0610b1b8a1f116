"""Health endpoints of a run: ``/healthz``, ``/readyz`` and ``/metrics``.

It answers on this machine alone unless it is told otherwise: it has no password. It runs beside
whoever begins the sessions, and knows no FLARE and no learning.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from federation.flare.certificates import expiry
from federation.flare.event_feed import Clock, read_status, utc_now
from federation.flare.server import ServerPlace

THIS_MACHINE = "127.0.0.1"
STATES = ("running", "waiting", "paused", "finished", "failed")
HOSPITAL_STATES = ("expected", "present", "suspect", "faulty")
_SPARE_SECONDS = 600.0  # for what is no stage: greeting, aggregating, measuring, saving
Labelled = dict[tuple[str, ...], float]  # values of the labels -> value
_NUMBERS = (
    ("round", "fedka_round", "Round under way."),
    ("rounds_done", "fedka_rounds_done", "Rounds that were aggregated."),
    ("num_rounds", "fedka_rounds_planned", "Rounds of the run."),
    ("minimum_hospitals", "fedka_hospitals_minimum", "Fewest hospitals that must answer."),
    ("accuracy", "fedka_accuracy", "Accuracy of the global model after the last round."),
    ("num_classes", "fedka_classes", "Classes of the global model."),
    ("seconds", "fedka_round_seconds", "Seconds of the last round."),
    (
        "rejected",
        "fedka_round_rejected_updates",
        "Updates of the last round that did not pass the screening.",
    ),
)


class HealthError(OSError):
    """Health that cannot be served: what, what to do."""


@dataclass(frozen=True)
class Vitals:
    """All that the answers are made from.

    Args:
        status: Where things stand.
        age_seconds: Since the last event; none before the first.
        most_seconds: That may pass between two events of a session.
        sessions: Begun since this process was started.
        expires: First certificate of the server to end; none where it cannot be read.
    """

    status: Mapping[str, Any]
    age_seconds: float | None
    most_seconds: float
    sessions: int = 0
    expires: datetime | None = None

    @property
    def state(self) -> str:
        """Of the run; ``waiting`` before anything has happened."""
        return str(self.status.get("state", "waiting"))

    @property
    def is_healthy(self) -> bool:
        """Whether nobody has to come.

        A run that waits for hospitals is well, one that failed or stands still is not.
        """
        stands = (
            self.state == "running"
            and self.age_seconds is not None
            and self.age_seconds > self.most_seconds
        )
        return self.state != "failed" and not stands

    @property
    def is_ready(self) -> bool:
        """Whether rounds go on, or all are done."""
        return self.is_healthy and self.state in ("running", "finished")


def answer(path: str, vitals: Vitals) -> tuple[int, str, bytes]:
    """Return status code, content type and content of an answer."""
    said = {
        "state": vitals.state,
        "rounds_done": vitals.status.get("rounds_done", 0),
        "last_event_age_seconds": vitals.age_seconds,
    }
    match path.partition("?")[0]:
        case "/healthz":
            return (
                (200 if vitals.is_healthy else 503),
                "application/json",
                json.dumps({"healthy": vitals.is_healthy, **said}).encode(),
            )
        case "/readyz":
            return (
                (200 if vitals.is_ready else 503),
                "application/json",
                json.dumps({"ready": vitals.is_ready, **said}).encode(),
            )
        case "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", metrics(vitals)
    return 404, "text/plain", b"allowed: /healthz, /readyz, /metrics\n"


def metrics(vitals: Vitals) -> bytes:
    """Return the metrics as Prometheus reads them.

    Raises:
        HealthError: If ``prometheus-client`` is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    except ImportError as error:
        raise HealthError(
            "metrics need prometheus-client; pip install 'fedka[flare]', or take metrics_port out "
            "of server.yaml"
        ) from error

    def gauge(
        name: str, what: str, values: Labelled, labels: tuple[str, ...] = ()
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, what, labels=labels)
        for each, value in values.items():
            family.add_metric(each, value)
        return family

    class Collector:
        """Gives what is known; what is not known is left out, not 0."""

        def collect(self) -> Iterator[Metric]:
            status = vitals.status
            hospitals = status.get("hospitals", {})
            yield gauge(
                "fedka_healthy", "Whether nobody has to come.", {(): float(vitals.is_healthy)}
            )
            of_run: Labelled = {(each,): float(each == vitals.state) for each in STATES}
            yield gauge("fedka_state", "State of the run.", of_run, ("state",))
            for key, name, what in _NUMBERS:
                if isinstance(status.get(key), int | float):
                    yield gauge(name, what, {(): float(status[key])})
            traffic: Labelled = {
                (way,): float(status[f"bytes_{way}"])
                for way in ("up", "down")
                if f"bytes_{way}" in status
            }
            yield gauge(
                "fedka_round_bytes",
                "Bytes that crossed the link in the last whole round.",
                traffic,
                ("direction",),
            )
            states: Labelled = {
                (name, each): float(each == of.get("state"))
                for name, of in hospitals.items()
                for each in HOSPITAL_STATES
            }
            yield gauge(
                "fedka_hospital_state",
                "Whether a hospital is in this state.",
                states,
                ("hospital", "state"),
            )
            last: Labelled = {
                (name,): float(of["last_round"])
                for name, of in hospitals.items()
                if "last_round" in of
            }
            yield gauge(
                "fedka_hospital_last_round",
                "Last round in which a hospital answered.",
                last,
                ("hospital",),
            )
            yield CounterMetricFamily(
                "fedka_sessions",
                "Sessions begun since this process was started.",
                value=float(vitals.sessions),
            )
            if vitals.age_seconds is not None:
                yield gauge(
                    "fedka_last_event_age_seconds",
                    "Seconds since the last event.",
                    {(): vitals.age_seconds},
                )
            if vitals.expires is not None:
                ends = vitals.expires.timestamp()
                yield gauge(
                    "fedka_certificate_expiry_timestamp_seconds",
                    "When the server's first certificate ends.",
                    {(): ends},
                )

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)


def look(place: ServerPlace, kit: Path, sessions: int, clock: Clock = utc_now) -> Vitals:
    """Return how a run is now."""
    status = read_status(place.folder)
    updated = status.get("updated")
    age = (
        None
        if updated is None
        else (clock() - datetime.fromisoformat(updated).astimezone(UTC)).total_seconds()
    )
    link = place.config.link
    return Vitals(
        status,
        age,
        2 * link.deadline_seconds + link.hello_seconds + _SPARE_SECONDS,
        sessions,
        expiry(kit),
    )


@contextmanager
def serve_health(
    place: ServerPlace, kit: Path, sessions: Callable[[], int], host: str = THIS_MACHINE
) -> Iterator[int | None]:
    """Serve as long as it is entered, where the server's file gives a port.

    Args:
        place: Of the server.
        kit: Of the server, for its certificates.
        sessions: Tells how many sessions were begun.
        host: Address to listen on.

    Yields:
        The port; none where nothing is served.

    Raises:
        HealthError: If the port cannot be had, or ``prometheus-client`` is not installed.
    """
    port = place.config.metrics_port
    if port is None:
        yield None
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            code, kind, content = answer(self.path, look(place, kit, sessions()))
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent: it is asked every few seconds."""

    metrics(
        look(place, kit, sessions())
    )  # says now, and not when first asked, that something is missing
    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise HealthError(
            f"health cannot be served at {host}:{port}: {error.strerror}; set another metrics_port "
            "in server.yaml"
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
