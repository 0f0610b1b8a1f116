"""Novelty check of arrivals: entropies under the global model, and what the detection rule says."""

from dataclasses import replace
from math import log

import numpy as np
from numpy.typing import NDArray

from incremental.detection import QUANTILE_LEVELS, Detection, Evidence, detect, entropy
from incremental.network import IncrementalNetwork
from twin.config import TwinConfig
from twin.hospital_view import HospitalView
from twin.messages import GlobalModel
from twin.state import NOTHING, Positions, TwinState


def check_novelty(
    state: TwinState,
    view: HospitalView,
    config: TwinConfig,
    model: GlobalModel,
    network: IncrementalNetwork,
    held_back: NDArray[np.float32],
) -> tuple[TwinState, Detection, list[Detection]]:
    """Apply the detection rule to the images in the inbox.

    Args:
        state: State of the twin, with its arrivals in the inbox.
        view: View of its hospital.
        config: The rule that is followed and those that are watched.
        model: The server's message.
        network: A network with the message's weights.
        held_back: Entropies of the images held back [nats].

    Returns:
        The state with this entropy in its history, the rule's decision, and those of the watched
        rules.
    """
    # The calibrated rule needs no entropies of the current images.
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
        share = entropy_fraction(detection.mean_nats, len(model.class_names))
        entry = (model.round, 1.0 if share is None else share, detection.signal)
        history = (*state.entropy_history, entry)
        state = replace(state, previous_mean=detection.mean_nats, entropy_history=history)
    return state, detection, [detect(evidence, each) for each in config.watched]


def entropy_quantiles(logits: NDArray[np.float32]) -> tuple[float, ...] | None:
    """Return quantiles of the entropies of images [nats], shape [19].

    None for fewer images than quantiles, as these would show the entropies of single images.
    """
    if len(logits) < len(QUANTILE_LEVELS) or not logits.shape[1]:
        return None
    return tuple(float(value) for value in np.quantile(entropy(logits), QUANTILE_LEVELS))


def entropy_fraction(mean_nats: float | None, classes: int) -> float | None:
    """Return an entropy as a fraction of ln C; none if there is none, or C < 2."""
    return None if mean_nats is None or classes < 2 else min(mean_nats / log(classes), 1.0)


def _sample(positions: Positions, config: TwinConfig) -> Positions:
    size = config.detection.sample
    if size is None or len(positions) <= size:
        return positions
    return positions[np.linspace(0, len(positions) - 1, size).astype(np.int64)]
