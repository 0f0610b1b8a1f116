"""One message of every kind to make records of.

What takes a record apart and puts another together.
"""

import json
import struct
from typing import Any, cast

import torch
from torch import Tensor

from federation.flare.link_messages import Assignment
from federation.flare.record_fields import hints_of
from federation.flare.records import KINDS, RECORD_VERSION, decode, decode_method, encode
from federation.method import Method
from incremental.network import NetworkConfig
from incremental.proxy import Score, StoredModel
from twin.config import TwinConfig, TwinSetting
from twin.local_training import TrainingConfig
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.secure_sum.mask_messages import Member, Roster

START = struct.Struct("<8sHI")
WEIGHTS = {
    "conv": torch.arange(6.0).reshape(1, 2, 3),
    "head.bias": torch.tensor([-0.0]),
    "steps": torch.tensor(7),
}
OLD = {"head.bias": torch.tensor([1.0, 2.0])}
BROADCAST = Broadcast(
    weights=WEIGHTS,
    class_names=("liver", "spleen, left"),
    round=3,
    rounds_since_task_began=1,
    seed=2**63 - 1,
    old_model=StoredModel(OLD, ("liver",), 2, Score(0.75, "held-back images of task 1")),
    extras={"control/conv": torch.ones(2, dtype=torch.float64), "taught_rows": torch.tensor(1)},
)
OBSERVATION = Observation(
    "north", 3, 5, True, ("kidney",), 0.25, 1.5, 0.5, 10, 4, 3, (0.1, 0.2), (True, False)
)
OBSERVED = encode(OBSERVATION)


def parts(record: bytes) -> tuple[Any, ...]:
    """Header as plain data, and the block of tensors."""
    _, _, length = START.unpack_from(record)
    return json.loads(record[START.size : START.size + length]), record[START.size + length :]


def built(
    header: bytes | dict[str, Any],
    block: bytes,
    version: int = RECORD_VERSION,
    magic: bytes = b"FEDKA\r\n\0",
) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return START.pack(magic, version, len(raw)) + raw + block


def changed(record: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    """The record with another value at a path of its header."""
    header, block = parts(record)
    place = header
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return built(header, block)


def example(name: str) -> Any:
    kind = KINDS[name]
    made = {
        "broadcast": BROADCAST,
        "observation": OBSERVATION,
        "global_model": GlobalModel(OLD, ("liver",), 3, (0.5, 1.0), 9),
        "twin_update": TwinUpdate(
            "north",
            3,
            OLD,
            5,
            class_names=("liver",),
            upload={"a": torch.ones(2)},
            metrics={"total": float("nan")},
        ),
        "assignment": Assignment(
            "run-1", TwinSetting(TwinConfig(), NetworkConfig(), TrainingConfig(), 2), 1
        ),
        "roster": Roster(3, ("liver",), {"north": Member(b"key", 5)}),
    }
    if name in made:
        return made[name]
    samples = {
        int: 3,
        str: "north",
        bytes: b"key",
        tuple[str, ...]: ("liver",),
        Tensor: torch.arange(3),
    }
    return kind(
        **{
            each: samples[hint]
            for each, hint in hints_of(cast(Any, kind)).items()
            if hint in samples and not issubclass(kind, Method)
        }
    )


def opened(name: str, record: bytes, groups: Any = None) -> Any:
    return (
        decode_method(record)
        if issubclass(KINDS[name], Method)
        else decode(KINDS[name], record, groups)
    )
