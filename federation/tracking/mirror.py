"""When a run is uploaded: while it goes on, or later. Knows neither what is uploaded nor how."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from federation.tracking.config import TrackingConfig, TrackingError
from federation.tracking.receipt import Receipt
from federation.tracking.system import SystemLog
from federation.tracking.upload import Upload, read_json


def sync(folder: Path, uri: str | None = None) -> Receipt:
    """Upload whatever of a run is not in MLflow yet.

    Args:
        folder: The run folder, of a run that ended or not.
        uri: Address of the store; none: the one of the run's configuration.

    Raises:
        TrackingError: If this is no run folder or the store does not answer.
    """
    if not (folder / "config.json").is_file():
        raise TrackingError(
            f"{folder} is no run folder: it has no config.json; expected: the --out folder of a run; name that folder"
        )
    try:
        config = TrackingConfig(
            **{
                **read_json(folder / "config.json").get("tracking", {}),
                **({"uri": uri} if uri else {}),
            }
        )
        with _patience(60, retries=2):
            upload = Upload(folder, config, live=False)
            upload.records()
            upload.models()
            upload.artifacts()
            if (folder / "results.json").is_file():
                upload.end("FINISHED")
    except Exception as error:
        where = uri or "its MLflow store"
        raise TrackingError(
            f"{folder} could not be uploaded to {where}: {_reason(error)}; needed: a store that answers; what was uploaded is kept, so "
            "sync again later"
        ) from error
    return upload.receipt


class RecordCallbacks(Protocol):
    """Who is told of each record as it is written: a dataclass, so that one of its fields can be replaced."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def record(self) -> Callable[[Mapping[str, Any]], None]:
        """Take notice of a record."""
        ...


Watching = TypeVar("Watching", bound=RecordCallbacks)


class RunMirror:
    """Keeps MLflow up to date while a run goes on. Its methods never raise and never wait long.

    Args:
        config: Where to.
        folder: The run folder; nothing is uploaded before ``config.json`` stands in it.
        report: Told once when the store fails, and once when it is back.
    """

    def __init__(self, config: TrackingConfig, folder: Path, report: Callable[[str], None]) -> None:
        self.config, self.folder, self.report = config, folder, report
        self._upload: Upload | None = None
        self._failed_at: float | None = None
        self._system = (
            SystemLog(folder / "system.jsonl") if config.enabled and config.system_metrics else None
        )

    def watching(self, callbacks: Watching) -> Watching:
        """Return the callbacks with one duty more: each round's record brings MLflow up to date."""

        def record(entry: Mapping[str, Any]) -> None:
            callbacks.record(entry)
            if entry.get("kind") == "round":
                self.update()

        return replace(callbacks, record=record)

    def update(self) -> bool:
        """Upload what is new; call it after each round. Returns whether MLflow is up to date."""
        if self._system:
            self._attempt(self._system.sample)
        resting = (
            self._failed_at is not None
            and time.monotonic() - self._failed_at < self.config.retry_seconds
        )
        return self.config.enabled and not resting and self._attempt(lambda: self._send(None))

    def finish(self, status: str = "FINISHED") -> bool:
        """Upload the rest, artifacts included, and close the run.

        Args:
            status: MLflow's word: ``FINISHED``, ``FAILED`` or ``KILLED`` (interrupted; a resumed run opens it again).
        """
        return self.config.enabled and self._attempt(lambda: self._send(status))

    def _send(self, status: str | None) -> None:
        if not (self.folder / "config.json").is_file():
            return  # the run has not begun: there is nothing to upload
        with _patience(self.config.timeout_seconds, retries=1):
            self._upload = self._upload or Upload(self.folder, self.config, live=True)
            self._upload.records()
            self._upload.models()
            if status:
                self._upload.artifacts()
                self._upload.end(status)
        if self._failed_at is not None:
            self._failed_at = None
            self.report("the MLflow store answers again; the run is up to date there")

    def _attempt(self, step: Callable[[], None]) -> bool:
        """The one place where tracking's exceptions end."""
        try:
            step()
        except Exception as error:
            if self._failed_at is None:
                self.report(
                    f"MLflow is behind: {_reason(error)}; the run goes on, and all of it is in {self.folder}; "
                    f"upload it later with: fedka sync {self.folder}"
                )
            self._failed_at, self._upload = time.monotonic(), None
            return False
        return True


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}{'...' if len(text) > 500 else ''}"


@contextmanager
def _patience(seconds: int, retries: int) -> Iterator[None]:
    """Bound how long MLflow waits for a server; its own bound is seven retries of two minutes. Read by MLflow at each request."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
