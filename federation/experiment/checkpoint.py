"""Checkpoints: everything that a run needs to go on, saved after each round.

A checkpoint is one folder that appears whole or not at all (written beside its place, then
renamed); the last two are kept. The states of the twins are written when they change and lie
beside; a checkpoint names the last round that counts. A resumed run equals an uninterrupted one bit
for bit, because all that is random is seeded by names and nothing else survives a round.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from federation.engines.twin_states import flush
from federation.server import ServerState
from incremental.network import NetworkConfig
from incremental.proxy import ProxyServer, Score, StoredModel

KEPT = 2  # a checkpoint that turns out damaged has one before it


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read: what, got, what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A run between two rounds.

    Args:
        server: The server.
        best: The proxy server's best model of the open task.
        old_model: The proxy server's old model.
        states_until: Last round whose twins' states belong to it; they lie beside the checkpoints
            (``federation.engines.twin_states``).
        progress: Plain data of the experiment: seconds, images trained, number of records written.
    """

    server: ServerState
    best: StoredModel | None
    old_model: StoredModel | None
    states_until: int
    progress: Mapping[str, Any]

    def restore(self, proxy: ProxyServer) -> None:
        """Put the proxy server where it was."""
        proxy.best, proxy.old_model = self.best, self.old_model


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and forget all but the last two.

    Args:
        folder: Holds a run's checkpoints.
        checkpoint: What to save.

    Returns:
        The checkpoint's own folder.

    Raises:
        CheckpointError: If it cannot be written (a full disk, say); earlier checkpoints are
            untouched.
    """
    place = folder / _name(checkpoint.server.round)
    beside = folder / f".{place.name}.{uuid4().hex}"
    plain, tensors = _take_apart(checkpoint)
    try:
        beside.mkdir(parents=True)
        save_file(
            {name: value.contiguous().clone() for name, value in tensors.items()},
            beside / "tensors.safetensors",
        )
        (beside / "state.json").write_text(json.dumps(plain), encoding="utf-8")
        for written in (*beside.iterdir(), beside):
            flush(written)
        if place.exists():
            shutil.rmtree(place)
        beside.rename(place)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {place} could not be written: {error}; the one before it is whole; "
            "make room and go on with --resume"
        ) from error
    for outdated in sorted(folder.glob("round-*"))[:-KEPT]:
        shutil.rmtree(outdated)
    return place


def has_checkpoint(folder: Path) -> bool:
    """Return whether a round of a run was saved, whole or not."""
    return any(folder.glob("round-*"))


def load_checkpoint(folder: Path, num_records: int | None = None) -> Checkpoint:
    """Read the latest whole checkpoint of a run.

    Args:
        folder: Holds a run's checkpoints.
        num_records: Records that are whole; a checkpoint that counts on more is passed over. None:
            they do not matter.

    Raises:
        CheckpointError: If there is none.
    """
    problems = []
    for place in sorted(folder.glob("round-*"), reverse=True):
        try:
            found = _read(place)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            problems.append(f"{place.name}: {error}")
            continue
        needed = int(found.progress.get("records", 0))
        if num_records is None or needed <= num_records:
            return found
        problems.append(
            f"{place.name}: it counts on {needed} records, of which {num_records} are whole"
        )
    detail = "; ".join(problems) or "no finished round was saved"
    raise CheckpointError(
        f"{folder} has no checkpoint that can be read ({detail}); start the run again without "
        "--resume"
    )


def go_back_before(folder: Path, round_number: int) -> bool:
    """Forget the latest checkpoint if it is a round's and the one before is whole; say whether."""
    *_, before, latest = (None, None, *sorted(folder.glob("round-*")))
    if (
        before is None
        or latest is None
        or (before.name, latest.name) != (_name(round_number), _name(round_number + 1))
    ):
        return False
    try:
        _read(before)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return False
    shutil.rmtree(latest)
    return True


def _read(place: Path) -> Checkpoint:
    plain = json.loads((place / "state.json").read_text(encoding="utf-8"))
    return _put_together(plain, load_file(place / "tensors.safetensors"))


def _name(rounds_done: int) -> str:
    return f"round-{rounds_done:05d}"


def _take_apart(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]:
    server = checkpoint.server
    tensors = _prefixed("server/weights", server.weights) | _prefixed("server/kept", server.kept)
    models = {"best": checkpoint.best, "old_model": checkpoint.old_model}
    for name, model in models.items():
        tensors |= _prefixed(name, model.weights if model else {})
    plain = {
        "round": server.round,
        "class_names": server.class_names,
        "task_begins": server.task_begins,
        "settle_rounds": server.settle_rounds,
        "seed": server.seed,
        "usual_entropy": server.usual_entropy,
        "usual_images": server.usual_images,
        "network": {
            name: getattr(server.network, name) for name in server.network.__dataclass_fields__
        },
        "models": {name: _describe(model) for name, model in models.items()},
        "states_until": checkpoint.states_until,
        "progress": dict(checkpoint.progress),
    }
    return plain, tensors


def _put_together(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
    usual = plain["usual_entropy"]
    server = ServerState(
        weights=_under("server/weights", tensors),
        class_names=tuple(plain["class_names"]),
        network=NetworkConfig(**plain["network"]),
        seed=plain["seed"],
        round=plain["round"],
        task_begins=tuple(plain["task_begins"]),
        settle_rounds=plain["settle_rounds"],
        kept=_under("server/kept", tensors),
        usual_entropy=None if usual is None else tuple(usual),
        usual_images=plain["usual_images"],
    )
    models = {name: _model(each, _under(name, tensors)) for name, each in plain["models"].items()}
    return Checkpoint(
        server,
        models["best"],
        models["old_model"],
        plain["states_until"],
        plain["progress"],
    )


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix + "/"): value
        for name, value in tensors.items()
        if name.startswith(prefix + "/")
    }


def _describe(model: StoredModel | None) -> dict[str, Any] | None:
    if model is None:
        return None
    score = None if model.score is None else {"value": model.score.value, "test": model.score.test}
    return {"class_names": list(model.class_names), "round": model.round, "score": score}


def _model(plain: Mapping[str, Any] | None, weights: dict[str, Tensor]) -> StoredModel | None:
    if plain is None:
        return None
    score = None if plain["score"] is None else Score(**plain["score"])
    return StoredModel(weights, tuple(plain["class_names"]), plain["round"], score)
