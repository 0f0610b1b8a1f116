"""Report of a twin: reported and desired state, and its events, as plain data."""

from typing import Any

import numpy as np

from twin.config import TwinConfig
from twin.hospital_view import HospitalView
from twin.state import TwinState


def report_of(state: TwinState, view: HospitalView, config: TwinConfig) -> dict[str, Any]:
    """Return a twin's reported and desired state, as plain data without pixels.

    Args:
        state: State of the twin.
        view: View of its hospital.
        config: Settings of every twin.
    """
    hospital = view.hospital
    labels = hospital.labels(state.current)
    counts = {
        hospital.vocabulary[label]: int((labels == label).sum()) for label in np.unique(labels)
    }
    known = {name for names in state.finished for name in names} | set(state.current_names)
    return {
        "twin": hospital.hospital_id,
        "reported": {
            "model_round": state.model_round,
            "classes": sorted(known),
            "current_images": counts,
            "exemplars": {name: len(each) for name, each in state.memory.positions.items()},
            "held_back_images": len(state.held_back),
            "waiting_images": len(state.inbox),
            "entropy": state.entropy_history[-1][1] if state.entropy_history else None,
            "observed_until_round": state.observed_until,
        },
        "desired": {
            "classes": list(state.model_names),
            "memory_capacity": state.memory.capacity,
            "detection": config.detection.rule,
        },
        "converged": not len(state.inbox),
        "events": [dict(event) for event in state.events],
    }
