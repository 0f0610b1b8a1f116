"""Novelty check of arrivals: entropies of new and held-back images, and the detector's verdict.

Knows no training and decides nothing about tasks.
"""

from dataclasses import replace
from math import log

import numpy as np
from numpy.typing import NDArray

from incremental.detection import USUAL_LEVELS, Detection, Evidence, detect, entropy
from incremental.network import IncrementalNetwork
from twin.config import TwinConfig
from twin.hospital_view import HospitalView
from twin.messages import GlobalModel
from twin.state import NOTHING, Positions, TwinState


def look(
    state: TwinState,
    view: HospitalView,
    config: TwinConfig,
    model: GlobalModel,
    network: IncrementalNetwork,
    held_back: NDArray[np.float32],
) -> tuple[TwinState, Detection, list[Detection]]:
    """Look at the inbox with the global model.

    Args:
        state: The twin's, with what has arrived in its inbox.
        view: Of its hospital.
        config: The rule that is followed and those that are watched.
        model: The message from the server.
        network: A network that holds its weights.
        held_back: Entropies of the images held back [nats].

    Returns:
        The state with this look in its history, what the rule says, and what the watched ones would
        have said.
    """
    # Entropies of unchanged data under the calibrated rule decide nothing: they are not computed.
    at_current = not len(state.inbox) and any(
        each.rule == "entropy_jump" for each in (config.detection, *config.watched)
    )
    evidence = Evidence(
        classes=len(model.class_names),
        arrivals=entropy(view.logits(network, _sample(state.inbox, config))),
        current=entropy(
            view.logits(network, _sample(state.current, config) if at_current else NOTHING)
        ),
        held_back=held_back,
        previous_mean=state.previous_mean,
        usual_elsewhere=None
        if model.usual_entropy is None
        else np.array(model.usual_entropy, np.float32),
        images_elsewhere=model.usual_images,
    )
    detection = detect(evidence, config.detection)
    if detection.mean_nats is not None:
        share = fraction(detection.mean_nats, len(model.class_names))
        seen = (model.round, 1.0 if share is None else share, detection.signal)
        state = replace(
            state, previous_mean=detection.mean_nats, entropy_history=(*state.entropy_history, seen)
        )
    return state, detection, [detect(evidence, each) for each in config.watched]


def usual_quantiles(logits: NDArray[np.float32]) -> tuple[float, ...] | None:
    """Return the quantiles of the entropies of held-back images, [19].

    None where a handful would show the images' own entropies.
    """
    if len(logits) < len(USUAL_LEVELS) or not logits.shape[1]:
        return None
    return tuple(float(value) for value in np.quantile(entropy(logits), USUAL_LEVELS))


def fraction(mean_nats: float | None, classes: int) -> float | None:
    """Return an entropy as a fraction of ln C; none where C < 2 has no entropy."""
    return None if mean_nats is None or classes < 2 else min(mean_nats / log(classes), 1.0)


def _sample(positions: Positions, config: TwinConfig) -> Positions:
    most = config.detection.sample
    if most is None or len(positions) <= most:
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).astype(np.int64)]
