"""When a run is uploaded to MLflow: after each round (``RunMirror``) or later (``sync``)."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from federation.tracking.config import TrackingConfig, TrackingError
from federation.tracking.system_load import SystemLoadLog
from federation.tracking.upload import Upload, read_json
from federation.tracking.upload_state import UploadState


def sync(folder: Path, uri: str | None = None) -> UploadState:
    """Upload everything of a run that is not in MLflow yet.

    Args:
        folder: The run folder; the run need not have ended.
        uri: Address of the store; none: the one in the run's configuration.

    Raises:
        TrackingError: If this is no run folder or the store does not answer.
    """
    if not (folder / "config.json").is_file():
        raise TrackingError(
            f"{folder} is no run folder: it has no config.json; "
            "expected: the --out folder of a run; name that folder"
        )
    try:
        settings = read_json(folder / "config.json").get("tracking", {})
        config = TrackingConfig(**{**settings, **({"uri": uri} if uri else {})})
        with _mlflow_timeout(60, retries=2):
            upload = Upload(folder, config, live=False)
            upload.upload_records()
            upload.upload_models()
            upload.upload_artifacts()
            if (folder / "results.json").is_file():
                upload.end("FINISHED")
    except Exception as error:
        raise TrackingError(
            f"{folder} could not be uploaded to {uri or 'its MLflow store'}: {_text_of(error)}; "
            "needed: a store that answers; what was uploaded is kept, so sync again later"
        ) from error
    return upload.state


class RecordCallbacks(Protocol):
    """A dataclass with a callback for each record of a run."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def record(self) -> Callable[[Mapping[str, Any]], None]:
        """The callback; it is called with each record when it is written."""
        ...


Callbacks = TypeVar("Callbacks", bound=RecordCallbacks)


class RunMirror:
    """Keeps MLflow up to date during a run. Its methods never raise and never wait long.

    Args:
        config: Where to upload.
        folder: The run folder; nothing is uploaded before it holds ``config.json``.
        report: Called with a message once when the store fails, and once when it answers again.
    """

    def __init__(self, config: TrackingConfig, folder: Path, report: Callable[[str], None]) -> None:
        self.config, self.folder, self.report = config, folder, report
        self._upload: Upload | None = None
        self._failed_at: float | None = None
        wanted = config.enabled and config.system_metrics
        self._system_load = SystemLoadLog(folder / "system.jsonl") if wanted else None

    def with_upload(self, callbacks: Callbacks) -> Callbacks:
        """Return callbacks that also bring MLflow up to date after each round's record."""

        def record(entry: Mapping[str, Any]) -> None:
            callbacks.record(entry)
            if entry.get("kind") == "round":
                self.update()

        return replace(callbacks, record=record)

    def update(self) -> bool:
        """Upload what is new and return whether MLflow is up to date; call it after each round."""
        if self._system_load:
            self._attempt(self._system_load.sample)
        is_pausing = (
            self._failed_at is not None
            and time.monotonic() - self._failed_at < self.config.retry_seconds
        )
        return self.config.enabled and not is_pausing and self._attempt(self._upload_new)

    def finish(self, status: str = "FINISHED") -> bool:
        """Upload the rest, artifacts included, and close the run.

        Args:
            status: MLflow's status: ``FINISHED``, ``FAILED`` or ``KILLED`` (interrupted; a resumed
                run opens it again).
        """
        return self.config.enabled and self._attempt(lambda: self._upload_new(status))

    def _upload_new(self, final_status: str | None = None) -> None:
        if not (self.folder / "config.json").is_file():
            return  # the run has not begun: there is nothing to upload
        with _mlflow_timeout(self.config.timeout_seconds, retries=1):
            self._upload = self._upload or Upload(self.folder, self.config, live=True)
            self._upload.upload_records()
            self._upload.upload_models()
            if final_status:
                self._upload.upload_artifacts()
                self._upload.end(final_status)
        if self._failed_at is not None:
            self._failed_at = None
            self.report("the MLflow store answers again; the run is up to date there")

    def _attempt(self, step: Callable[[], None]) -> bool:
        """Do a step and return whether it succeeded; all errors of tracking end here."""
        try:
            step()
        except Exception as error:
            if self._failed_at is None:
                self.report(
                    f"MLflow is behind: {_text_of(error)}; the run goes on, and all of it is in "
                    f"{self.folder}; upload it later with: fedka sync {self.folder}"
                )
            self._failed_at, self._upload = time.monotonic(), None
            return False
        return True


def _text_of(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}{'...' if len(text) > 500 else ''}"


@contextmanager
def _mlflow_timeout(seconds: int, retries: int) -> Iterator[None]:
    """Bound how long MLflow waits for a server; without it, seven retries of two minutes.

    MLflow reads these environment variables at each request.
    """
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
