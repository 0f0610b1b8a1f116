"""Deliveries of phantom scans into the inboxes of the demo's hospitals.

``demo.json`` counts the delivered patients, so that a demo that is continued sends none twice.
"""

import json
import threading
from collections.abc import Mapping

import numpy as np

from federation.console.demo.plan import DemoPlan
from federation.console.files import write_json
from federation.console.settings import ConsoleSettings
from physical.datasets.phantom_dicom import write_phantom_dicom

STATE_FILE = "demo.json"
_PATIENTS_PER_HOSPITAL = 1_000_000  # range of patient numbers, so that hospitals share none
_HISTORY, _STREAM = "history", "stream"
_NAMED_SHARE = 0.5  # share of the known organs that their sender has named


class Deliveries:
    """Sends scans to all hospitals and counts them.

    Args:
        plan: Plan of the demo.
        settings: Settings of its console.
    """

    def __init__(self, plan: DemoPlan, settings: ConsoleSettings) -> None:
        self._plan, self._settings = plan, settings
        self._path = settings.folder / STATE_FILE
        self._sent: dict[str, int] = (
            json.loads(self._path.read_bytes()) if self._path.exists() else {}
        )

    def num_history_sent(self, hospital: str) -> int:
        """Return how many patients of a hospital's history were sent."""
        return self._sent.get(f"{_HISTORY} {hospital}", 0)

    def send_history(self, hospital: str) -> None:
        """Send the next patient of a hospital's history: every known organ, with its name."""
        number = self.num_history_sent(hospital)
        self._write(hospital, number, dict.fromkeys(self._plan.known, True))
        self._count(f"{_HISTORY} {hospital}", number + 1)

    @property
    def num_streamed(self) -> int:
        """Deliveries that were sent after the history."""
        return self._sent.get(_STREAM, 0)

    def send_next(self) -> None:
        """Send the next delivery: a known organ to each hospital, and the unknown one to some."""
        plan, number = self._plan, self.num_streamed
        before = max(0, number - plan.unknown_from) * plan.unknown_at_once
        for index, hospital in enumerate(plan.hospitals):
            rng = np.random.default_rng([plan.seed, 1, index, number])
            organ = plan.known[rng.integers(len(plan.known))]
            is_named = bool(rng.random() < _NAMED_SHARE)
            patient = plan.patients + 2 * number
            self._write(hospital, patient, {organ: is_named})
            if (
                hospital in plan.finders
                and number >= plan.unknown_from
                and before < plan.unknown_most
            ):
                self._write(hospital, patient + 1, {plan.unknown: False}, plan.unknown_at_once)
        self._count(_STREAM, number + 1)

    def send_until(self, stop: threading.Event) -> None:
        """Send one delivery after another until ``stop`` is set."""
        while not stop.wait(self._plan.seconds):
            self.send_next()

    def _write(
        self, hospital: str, patient: int, organs: Mapping[str, bool], slices: int = 1
    ) -> None:
        index = self._plan.hospitals.index(hospital)
        number = _PATIENTS_PER_HOSPITAL * (index + 1) + patient
        rng = np.random.default_rng([self._plan.seed, 2, number])
        write_phantom_dicom(
            self._settings.hospital(hospital).inbox,
            rng,
            organs,
            range(number, number + 1),
            slices,
            seed=self._plan.seed,
        )

    def _count(self, what: str, number: int) -> None:
        self._sent[what] = number
        write_json(self._path, self._sent)
