"""Phantom scans on their way into hospitals' inboxes, and how far they have come. Knows no console and no model.

``demo.json`` counts the patients that were delivered, so that a demo that goes on never sends one twice.
"""

import json
import threading
from collections.abc import Mapping

import numpy as np

from federation.console.demo.plan import DemoPlan
from federation.console.settings import ConsoleSettings, write_private
from physical.datasets.phantom_dicom import write_phantom_dicom

STATE_FILE = "demo.json"
_PATIENTS_OF_A_HOSPITAL = 1_000_000  # numbers of made patients: no two hospitals share one
_HISTORY, _STREAM = "history", "stream"
_NAMED_SHARE = 0.5  # of the known organs that stream in: a sender does not name everything


class Deliveries:
    """What the scanners of all hospitals have sent.

    Args:
        plan: Of the demo.
        settings: Of its console.
    """

    def __init__(self, plan: DemoPlan, settings: ConsoleSettings) -> None:
        self._plan, self._settings = plan, settings
        self._path = settings.folder / STATE_FILE
        self._sent = self._read()

    def history(self, hospital: str) -> int:
        """Return how many patients of a hospital's history were sent."""
        return self._sent.get(f"{_HISTORY} {hospital}", 0)

    def send_history(self, hospital: str) -> None:
        """Send the next patient of a hospital's history: every known organ, with its name."""
        number = self.history(hospital)
        self._write(hospital, number, dict.fromkeys(self._plan.known, True))
        self._count(f"{_HISTORY} {hospital}", number + 1)

    @property
    def streamed(self) -> int:
        """How many deliveries streamed in since."""
        return self._sent.get(_STREAM, 0)

    def send(self) -> None:
        """Send what is next: in each hospital a known organ, and in some, from some delivery on, the one that nobody names."""
        plan, number = self._plan, self.streamed
        before = max(0, number - plan.unknown_from) * plan.unknown_at_once
        for index, hospital in enumerate(plan.hospitals):
            rng = np.random.default_rng([plan.seed, 1, index, number])
            organ, is_named = (
                plan.known[rng.integers(len(plan.known))],
                bool(rng.random() < _NAMED_SHARE),
            )
            patient = plan.patients + 2 * number
            self._write(hospital, patient, {organ: is_named})
            if (
                hospital in plan.finders
                and number >= plan.unknown_from
                and before < plan.unknown_most
            ):
                self._write(hospital, patient + 1, {plan.unknown: False}, plan.unknown_at_once)
        self._count(_STREAM, number + 1)

    def stream(self, stop: threading.Event) -> None:
        """Send again and again until told to stop."""
        while not stop.wait(self._plan.seconds):
            self.send()

    def _write(
        self, hospital: str, patient: int, organs: Mapping[str, bool], slices: int = 1
    ) -> None:
        index = self._plan.hospitals.index(hospital)
        number = _PATIENTS_OF_A_HOSPITAL * (index + 1) + patient
        rng = np.random.default_rng([self._plan.seed, 2, number])
        write_phantom_dicom(
            self._settings.hospital(hospital).inbox,
            rng,
            organs,
            range(number, number + 1),
            slices,
            seed=self._plan.seed,
        )

    def _read(self) -> dict[str, int]:
        return (
            {str(name): int(count) for name, count in json.loads(self._path.read_bytes()).items()}
            if self._path.exists()
            else {}
        )

    def _count(self, what: str, number: int) -> None:
        self._sent[what] = number
        write_private(self._path, json.dumps(self._sent, indent=1).encode())
