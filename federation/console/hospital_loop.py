"""What runs inside a hospital beside the web process: images in, the model looks, cases open. One process for one hospital or for all.

Each pass takes in what has arrived, takes over the model that serves, triages what is new, and writes one line into the twin's log.
Nothing of it holds up the pages; they only read what it writes.
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from pydantic import TypeAdapter

from federation.console.registry_view import RegistryView
from federation.console.services import Clock, utc_now
from federation.console.settings import ConsoleSettings, write_private
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
_SAMPLE = 256  # new images whose entropy is written down
_PASSES_BETWEEN_TRIAGES = 30  # without a new image or model: people may have taken a name back
_log = logging.getLogger("fedka.console.hospital")


class HospitalLoop:
    """One hospital's passes.

    Args:
        settings: Of the console.
        hospital: Which hospital.
        store: Where cases are opened.
        worker: The process with the model; may be shared between hospitals.
        clock: The time.
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
        self._folders, self._store, self._worker, self._clock = (
            settings.hospital(hospital),
            store,
            worker,
            clock,
        )
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

    def step(self) -> bool:
        """Make one pass.

        Returns:
            Whether anything had changed.
        """
        report = self._intake.process_inbox()
        self._tell_intake(report)
        has_changed = self._take_model()
        num_images = len(self._mirror)
        self._idle_passes += 1
        if self._version is None or not (
            has_changed
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
        self._tell_triage(found, self._mean_entropy())
        self._num_seen = num_images
        return True

    def _take_model(self) -> bool:
        """Take over the model that serves; a shared worker may hold another hospital's older one."""
        current = self._registry.current()
        if current is None:
            return False
        facts = self._worker.facts
        if facts is None or facts.folder != str(current.folder.absolute()):
            facts = self._worker.load(current.folder)
        if current.version == self._version:
            return False
        self._version = current.version
        text = f"took over model version {current.version}, which names {len(facts.class_names)} classes"
        self._write("model", text, version=current.version, class_names=list(facts.class_names))
        return True

    def _mean_entropy(self) -> float | None:
        """Of the images that came since the last pass; of the latest ones if a model is new and none came."""
        ids = self._mirror.ids()[
            max(0, self._num_seen if self._num_seen < len(self._mirror) else 0) :
        ][-_SAMPLE:]
        if not ids:
            return None
        return float(score(self._worker.look(self._mirror.pixels(ids)).logits, "entropy").mean())

    def _tell_intake(self, report: IntakeReport) -> None:
        if report.added:
            self._write(
                "images",
                f"{report.images} {'image' if report.images == 1 else 'images'} came in",
                num=report.images,
            )
        if report.quarantined:
            reasons = ", ".join(
                f"{count} {reason.replace('_', ' ')}"
                for reason, count in report.quarantined.items()
            )
            self._write(
                "quarantine",
                f"files went to quarantine: {reasons}",
                reasons=dict(report.quarantined),
            )

    def _tell_triage(self, report: TriageReport, entropy: float | None) -> None:
        words = [f"case {case_id} opened" for case_id in report.opened] + [
            f"case {case_id} grew" for case_id in report.grown
        ]
        facts = {
            "entropy": entropy,
            "threshold": report.threshold,
            "num_waiting": report.num_waiting,
            "num_judged": report.num_judged,
        }
        self._write("look", report.undecided or "; ".join(words), **facts)

    def _write(self, what: str, text: str, **facts: Any) -> None:
        """Append to the twin's log; of a long one the first half goes."""
        path = self._folders.state / LOG_FILE
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = json.dumps(
            {
                "at": self._clock().isoformat(timespec="milliseconds"),
                "what": what,
                "text": text,
                **facts,
            }
        )
        if path.exists() and path.stat().st_size > _MOST_LOG_BYTES:
            write_private(path, path.read_bytes()[-_MOST_LOG_BYTES // 2 :].partition(b"\n")[2])
        with path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def run_loops(
    loops: Sequence[HospitalLoop],
    stop: threading.Event,
    seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Make passes until told to stop; what goes wrong in one hospital is told and tried again.

    Args:
        loops: One per hospital.
        stop: Ends it.
        seconds: Between two passes.
        tell: Is told of faults.
    """
    while not stop.is_set():
        for loop in loops:
            try:
                loop.step()
            except (OSError, ValueError, sqlite3.Error) as error:
                # OSError's text may quote a file's name, which may be a patient's; those of the worker are our own sentences
                is_ours = isinstance(error, ValueError | WorkerError)
                tell(
                    f"{loop.hospital}: {error if is_ours else type(error).__name__}; it is tried again"
                )
        stop.wait(seconds)


def open_doors(
    settings: ConsoleSettings, loops: Sequence[HospitalLoop], stack: ExitStack
) -> dict[str, int]:
    """Open the DICOM doors of the hospitals that have one.

    Args:
        settings: Of the console.
        loops: Of the hospitals that are served here.
        stack: Closes them.

    Returns:
        Hospital -> port.
    """
    ports = {}
    for loop in loops:
        door = settings.receivers.get(loop.hospital)
        if door is not None:
            receiver = Receiver(
                settings.hospital(loop.hospital).inbox, loop.pseudonyms, door.ae_title, door.allowed
            )
            ports[loop.hospital] = stack.enter_context(receiver.serving(door.address, door.port))
    return ports
