"""Checks that a run under faults ended like the undisturbed run: weights, records, states."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from federation.engines.twin_states import StateFolder
from federation.experiment.checkpoint import load_checkpoint
from federation.experiment.config import ExperimentConfig
from federation.experiment.run_folder import RunFolder
from federation.experiment.setup import prepare_experiment
from federation.flare.hospital_site import OWN_FOLDER
from federation.flare.provisioning import Deployment
from incremental.model_file import load_model
from physical.archive_file import load_hospital
from physical.batch import Batch
from twin.state import TwinState, to_plain

Images = Callable[[NDArray[np.int64]], Batch]  # images at these positions of an archive
_OF_TIME = ("seconds", "bytes_up", "bytes_down", "folder")


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Args:
        what: Statement that must hold.
        found: Description of what was found.
        good: Whether the statement holds.
    """

    what: str
    found: str
    good: bool


def checks(experiment: ExperimentConfig, reference: Path, made: Deployment) -> list[Check]:
    """Compare a deployment's result with the sequential run of the same experiment."""
    there = made.place.run
    done = rounds_in(there)
    planned = experiment.scenario.num_tasks * experiment.scenario.rounds_per_task
    if not (there / "results.json").exists():
        return [Check("all rounds are done", f"{done} of {planned}, without a result", False)]
    found = [Check("all rounds are done", f"{done} of {planned}", done == planned)]
    found.append(
        equality_check(
            "the weights of every kept model, bit for bit", _models(reference), _models(there)
        )
    )
    found.append(
        equality_check(
            "the last global weights, bit for bit", _last_weights(reference), _last_weights(there)
        )
    )
    found.append(equality_check("the record of every round", _records(reference), _records(there)))
    hospitals = prepare_experiment(experiment).hospitals()
    alone = StateFolder(RunFolder(reference).twins)
    for name in hospitals.joins:
        site = made.hospital(name) / OWN_FOLDER
        own = load_hospital(name, site / "archive.safetensors")
        states = StateFolder(site / "state" / made.place.run_id())
        try:
            state = states[name]
        except (KeyError, ValueError) as error:
            found.append(Check(f"the state of {name}'s twin", f"cannot be read: {error}", False))
            continue
        what = (
            f"the state of {name}'s twin: {len(state.memory.all_positions())} exemplars, "
            f"{len(state.current)} current, {len(state.held_back)} held back, the same images"
        )
        found.append(
            equality_check(
                what,
                comparable_state(alone[name], hospitals.archive.take),
                comparable_state(state, own.images),
            )
        )
    return found


def rounds_in(run: Path) -> int:
    """Return the number of rounds that a run has recorded."""
    return sum(each["kind"] == "round" for each in RunFolder(run).read_records())


def equality_check(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> Check:
    """Return the check that two mappings are equal."""
    wrong = [
        name
        for name in {**expected, **found}
        if name not in expected or name not in found or expected[name] != found[name]
    ]
    return Check(
        what,
        f"{len(expected)} compared, "
        + (f"differ: {', '.join(wrong[:5])}" if wrong else "all equal"),
        bool(expected) and not wrong,
    )


def comparable_state(state: TwinState, images: Images) -> dict[str, Any]:
    """Return a twin's state with image digests in place of positions, which differ by archive."""
    plain, tensors = to_plain(state)
    kept = {
        name: digest(value.numpy()) for name, value in tensors.items() if name.startswith("kept/")
    }
    shown = {
        name: digests(images(value.numpy())) for name, value in tensors.items() if name not in kept
    }
    return {**{f"plain/{name}": value for name, value in plain.items()}, **kept, **shown}


def digests(batch: Batch) -> tuple[str, ...]:
    """Return a digest of each image and its class, in their order."""
    return tuple(
        f"{digest(image)} {batch.vocabulary[int(label)]}"
        for image, label in zip(batch.images, batch.labels, strict=True)
    )


def digest(values: NDArray[Any]) -> str:
    """Return a digest of an array's bytes."""
    return sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def tensor_digests(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return a digest of each tensor."""
    return {name: digest(value.numpy()) for name, value in weights.items()}


def attempts(feed: Sequence[Mapping[str, Any]], rounds: int) -> tuple[int, int]:
    """Return the number of sessions, and of rounds that were started again, from a feed."""
    begun = Counter(
        each["round"] for each in feed if each["event"] == "round" and each["round"] < rounds
    )
    return sum(each["event"] == "state" and each["state"] == "running" for each in feed), sum(
        begun.values()
    ) - len(begun)


def _models(run: Path) -> dict[str, Any]:
    folders = sorted((run / "models").iterdir()) if (run / "models").exists() else []
    return {
        f"{each.name}/{name}": value
        for each in folders
        for name, value in tensor_digests(load_model(each)[0].state_dict()).items()
    }


def _last_weights(run: Path) -> dict[str, str]:
    return tensor_digests(load_checkpoint(RunFolder(run).checkpoints).server.weights)


def _records(run: Path) -> dict[str, str]:
    """Return every record without its times."""
    return {
        f"line {at}": json.dumps(_timeless(each), sort_keys=True)
        for at, each in enumerate(RunFolder(run).read_records())
    }


def _timeless(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {
            name: _timeless(value)
            for name, value in plain.items()
            if name not in _OF_TIME and not name.endswith("_seconds")
        }
    return [_timeless(each) for each in plain] if isinstance(plain, list) else plain
