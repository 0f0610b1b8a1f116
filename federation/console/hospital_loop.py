"""The intake process of a hospital: takes in images, triages them with the model, opens cases.

It runs beside the web process, for one hospital or for all. Each pass takes in the files that have
arrived, loads the serving model, triages new images, and logs these events for the twin's page.
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from pydantic import TypeAdapter

from federation.console.files import write_private
from federation.console.registry_view import RegistryView
from federation.console.services import Clock, utc_now
from federation.console.settings import ConsoleSettings
from federation.console.twin_view import LOG_FILE
from physical.intake.config import IntakeConfig
from physical.intake.folder import FolderIntake
from physical.intake.pseudonyms import read_or_make_key
from physical.intake.receiver import Receiver
from physical.intake.report import IntakeReport
from physical.mirror import Mirror
from twin.review.model_worker import ModelWorker, WorkerError
from twin.review.novelty_scores import score
from twin.review.store import ReviewStore
from twin.review.triage import TriageConfig, TriageError, TriageReport, triage

_MOST_LOG_BYTES = 2 * 1024 * 1024
_SAMPLE = 256  # new images whose mean entropy is logged
_PASSES_BETWEEN_TRIAGES = 30  # without a new image or model: a name may have been withdrawn
_log = logging.getLogger("fedka.console.hospital")


class HospitalLoop:
    """The passes of one hospital.

    Args:
        settings: Settings of the console.
        hospital: Id of the hospital.
        store: Store in which cases are opened.
        worker: Process with the model; may be shared between hospitals.
        clock: Returns the time.
    """

    def __init__(
        self,
        settings: ConsoleSettings,
        hospital: str,
        store: ReviewStore,
        worker: ModelWorker,
        clock: Clock = utc_now,
    ) -> None:
        self.hospital = hospital
        self._folders = settings.hospital(hospital)
        self._store, self._worker, self._clock = store, worker, clock
        self._mirror = Mirror(self._folders.mirror, settings.image_size)
        self.pseudonyms = read_or_make_key(self._folders.mirror.parent / "pseudonym.key")
        config = TypeAdapter(IntakeConfig).validate_python(
            {"image_size": settings.image_size, **settings.intake}
        )
        self._intake = FolderIntake(
            self._folders.inbox.parent, self._mirror, self.pseudonyms, config, clock
        )
        self._triage = TypeAdapter(TriageConfig).validate_python(dict(settings.triage))
        self._registry = RegistryView(settings.folder / "registry.json", settings.models_folder)
        self._version: str | None = None
        self._num_seen, self._idle_passes = 0, 0

    def run_once(self) -> bool:
        """Make one pass.

        Returns:
            Whether there were new images or a triage.
        """
        report = self._intake.process_inbox()
        self._log_intake(report)
        has_new_model = self._load_serving_model()
        num_images = len(self._mirror)
        self._idle_passes += 1
        if self._version is None or not (
            has_new_model
            or num_images != self._num_seen
            or self._idle_passes >= _PASSES_BETWEEN_TRIAGES
        ):
            return bool(report.added)
        self._idle_passes = 0
        try:
            found = triage(
                self._mirror,
                self._worker,
                self._store,
                self.hospital,
                self._triage,
                model_version=self._version,
            )
        except TriageError as error:
            _log.info("triage of %s waits: %s", self.hospital, error)
            return True
        self._log_triage(found, self._mean_entropy())
        self._num_seen = num_images
        return True

    def _load_serving_model(self) -> bool:
        """Load the serving model into the worker and return whether its version is new here.

        A shared worker may still hold an older model that another hospital uses.
        """
        current = self._registry.serving_model()
        if current is None:
            return False
        facts = self._worker.facts
        if facts is None or facts.folder != str(current.folder.absolute()):
            facts = self._worker.load(current.folder)
        if current.version == self._version:
            return False
        self._version = current.version
        names = list(facts.class_names)
        text = f"took over model version {current.version}, which names {len(names)} classes"
        self._log_event("model", text, version=current.version, class_names=names)
        return True

    def _mean_entropy(self) -> float | None:
        """Return the mean entropy of new images; without any, that of the latest ones."""
        num_seen = self._num_seen if self._num_seen < len(self._mirror) else 0
        ids = self._mirror.ids()[num_seen:][-_SAMPLE:]
        if not ids:
            return None
        return float(score(self._worker.look(self._mirror.pixels(ids)).logits, "entropy").mean())

    def _log_intake(self, report: IntakeReport) -> None:
        if report.added:
            noun = "image" if report.images == 1 else "images"
            self._log_event("images", f"{report.images} {noun} came in", num=report.images)
        if report.quarantined:
            reasons = ", ".join(
                f"{count} {reason.replace('_', ' ')}"
                for reason, count in report.quarantined.items()
            )
            text = f"files went to quarantine: {reasons}"
            self._log_event("quarantine", text, reasons=dict(report.quarantined))

    def _log_triage(self, report: TriageReport, entropy: float | None) -> None:
        opened = [f"case {case_id} opened" for case_id in report.opened]
        grown = [f"case {case_id} grew" for case_id in report.grown]
        self._log_event(
            "look",
            report.undecided or "; ".join(opened + grown),
            entropy=entropy,
            threshold=report.threshold,
            num_waiting=report.num_waiting,
            num_judged=report.num_judged,
        )

    def _log_event(self, what: str, text: str, **facts: Any) -> None:
        """Append an event to the twin's log, and shorten a log that has become too long."""
        path = self._folders.state / LOG_FILE
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        at = self._clock().isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, "what": what, "text": text, **facts})
        if path.exists() and path.stat().st_size > _MOST_LOG_BYTES:
            write_private(path, path.read_bytes()[-_MOST_LOG_BYTES // 2 :].partition(b"\n")[2])
        with path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def run_loops(
    loops: Sequence[HospitalLoop],
    stop: threading.Event,
    seconds: float,
    report_error: Callable[[str], None],
) -> None:
    """Make passes until ``stop`` is set; report errors and try again.

    Args:
        loops: One per hospital.
        stop: Ends the passes.
        seconds: Pause between two passes [s].
        report_error: Receives one sentence for each error.
    """
    while not stop.is_set():
        for loop in loops:
            try:
                loop.run_once()
            except (OSError, ValueError, sqlite3.Error) as error:
                # The text of an OSError may quote a file name, which may be a patient's name.
                is_safe = isinstance(error, ValueError | WorkerError)
                what = str(error) if is_safe else type(error).__name__
                report_error(f"{loop.hospital}: {what}; it is tried again")
        stop.wait(seconds)


def open_dicom_receivers(
    settings: ConsoleSettings, loops: Sequence[HospitalLoop], stack: ExitStack
) -> dict[str, int]:
    """Open the DICOM receivers of the hospitals that have one.

    Args:
        settings: Settings of the console.
        loops: One per hospital of this process.
        stack: Closes the receivers.

    Returns:
        Hospital -> port.
    """
    ports = {}
    for loop in loops:
        config = settings.receivers.get(loop.hospital)
        if config is not None:
            inbox = settings.hospital(loop.hospital).inbox
            receiver = Receiver(inbox, loop.pseudonyms, config.ae_title, config.allowed)
            serving = receiver.serving(config.address, config.port)
            ports[loop.hospital] = stack.enter_context(serving)
    return ports
