"""The wall: nothing that crosses it holds a pixel of the hospital.

Checked byte by byte on what a real twin sends.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from federation.method import Method
from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA
from federation.server import ServerState, grow_for_new_classes, new_server, with_usual_entropy
from incremental.detection import DetectionConfig
from incremental.network import build_network
from incremental.proxy import StoredModel
from incremental.reconstruction import ReconstructionConfig
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from physical.transforms import to_tensor
from twin.config import TwinConfig, TwinSetting
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate, num_bytes
from twin.twin import DigitalTwin

DECLARED = {FedAvg: set[str](), FedKA: {"prototype_gradients", "prototype_shape"}}
METHODS = [
    FedAvg(memory=True),
    FedKA(
        reconstruction=ReconstructionConfig(perturb_steps=3, invert_steps=30), attention_weight=0.1
    ),
]


@dataclass(frozen=True)
class Traffic:
    """All that crossed the wall of one hospital in four rounds over two tasks."""

    method: Method
    down: list[GlobalModel | Broadcast]
    up: list[Observation | TwinUpdate]
    twin: DigitalTwin

    @property
    def updates(self) -> list[TwinUpdate]:
        return [message for message in self.up if isinstance(message, TwinUpdate)]


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: type(method).__name__)
def traffic(
    request: pytest.FixtureRequest, tiny_batch: Batch, tiny_setting: TwinSetting
) -> Traffic:
    method: Method = request.param
    detection = DetectionConfig(jump_fraction=0.05)
    setting = replace(
        tiny_setting,
        twin=TwinConfig(memory_capacity=12, held_back_fraction=0.5, detection=detection),
    )
    arrivals = [
        Arrival(0, np.arange(20, 60)),
        Arrival(2, np.concatenate([np.arange(20), np.arange(60, 80)])),
    ]
    twin = DigitalTwin(Hospital("north", tiny_batch, arrivals), setting)
    server, old_model = new_server(setting.network, 1, settle_rounds=0), None
    down: list[GlobalModel | Broadcast] = []
    up: list[Observation | TwinUpdate] = []
    for _ in range(4):
        down.append(server.model)
        observation = twin.observe(server.model, build_network(server.network, server.weights))
        if server.class_names and observation.new_class_names:
            old_model = StoredModel(
                server.weights,
                server.class_names,
                server.round,
                method.score(server, [observation]),
            )
        server, _ = grow_for_new_classes(server, [observation])
        server = with_usual_entropy(server, [observation])
        broadcast = method.broadcast(server, old_model, "north")
        update = twin.train(broadcast, method)
        down.append(broadcast)
        up += [observation, update]
        server = advance(method, server, update)
    return Traffic(method, down, up, twin)


def advance(method: Method, server: ServerState, update: TwinUpdate) -> ServerState:
    return replace(method.aggregate(server, [update]), round=server.round + 1)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield f"{path} key", key
            yield from leaves(each, f"{path}[{key}]")
    elif isinstance(value, list | tuple | set | frozenset):
        for index, each in enumerate(value):
            yield from leaves(each, f"{path}[{index}]")
    else:
        yield path, value


def traces_of(images: np.ndarray) -> set[bytes]:
    """Every 16 neighbouring values of every image in each form in which they could travel.

    By channel or by pixel.
    """
    traces = set()
    for form in (images, images.transpose(0, 3, 1, 2)):
        rows = form.reshape(-1, 16)
        unit = rows.astype(np.float32) / 255
        for each in (
            rows,
            rows.astype(np.int64),
            rows.astype(np.float32),
            unit,
            (unit - 0.5) / 0.5,
            unit.astype(np.float64),
        ):
            traces |= {row.tobytes() for row in each if len(set(row.tolist())) > 3}
    return traces


def holds_pixels(tensor: Tensor, traces: set[bytes]) -> bool:
    raw = tensor.detach().contiguous().numpy().tobytes()
    widths = {len(trace) for trace in traces}
    size = tensor.element_size()
    return any(
        raw[start : start + width] in traces
        for start in range(0, len(raw), size)
        for width in widths
    )


@pytest.fixture(scope="module")
def traces(tiny_batch: Batch) -> set[bytes]:
    return traces_of(tiny_batch.images[:80])


def test_the_search_for_pixels_finds_those_that_are_hidden(
    traces: set[bytes], tiny_batch: Batch
) -> None:
    image = to_tensor(tiny_batch.images[:1])
    noise = torch.rand(5)
    assert holds_pixels(image, traces)
    assert holds_pixels(torch.cat([noise, image.float().flatten() / 255, noise]), traces)
    assert not holds_pixels(torch.rand(2000), traces)


def test_only_names_numbers_and_tensors_cross_the_wall(traffic: Traffic) -> None:
    for message in traffic.up + traffic.down:
        for path, leaf in leaves(message):
            assert leaf is None or type(leaf) in (str, int, float, bool, Tensor), (
                f"{path} is {type(leaf)}"
            )


def test_no_message_holds_a_pixel_of_the_hospital(traffic: Traffic, traces: set[bytes]) -> None:
    for message in traffic.up + traffic.down:
        for path, leaf in leaves(message):
            if isinstance(leaf, Tensor):
                assert not holds_pixels(leaf, traces), path


def test_an_update_holds_the_global_models_tensors_and_declared_uploads_alone(
    traffic: Traffic,
) -> None:
    broadcasts = [message for message in traffic.down if isinstance(message, Broadcast)]
    declared = DECLARED[type(traffic.method)]
    assert bool(declared) == bool(traffic.method.uploads)
    for update, broadcast in zip(traffic.updates, broadcasts, strict=True):
        assert update.weights.keys() == broadcast.weights.keys()
        assert all(
            value.shape == broadcast.weights[name].shape for name, value in update.weights.items()
        )
        assert update.upload.keys() in (set(), declared)
        assert all(isinstance(value, float) for value in update.metrics.values())
    assert [bool(update.upload) for update in traffic.updates] == (
        [True, False, True, False] if declared else [False] * 4
    )


def test_no_tensor_has_the_shape_of_images(traffic: Traffic) -> None:
    for message in traffic.up + traffic.down:
        for path, leaf in leaves(message):
            if isinstance(leaf, Tensor):
                assert leaf.shape[-2:] != (16, 16), path
                assert leaf.shape[-3:] != (16, 16, 3), path


def test_an_uploaded_gradient_is_as_long_as_the_public_network_and_there_is_one_per_new_class(
    traffic: Traffic,
) -> None:
    for update in traffic.updates:
        if update.upload:
            rows = len(update.weights["head.bias"])
            length = 12 * 3 * 25 + 12 + 2 * (12 * 12 * 25 + 12) + 12 * 4 * 4 * rows + rows
            assert update.upload["prototype_gradients"].shape == (2, length)
            assert update.upload["prototype_shape"].tolist() == [3, 16, 16]


def test_an_observation_holds_names_and_numbers_without_a_tensor(
    traffic: Traffic, tiny_batch: Batch
) -> None:
    observations = [message for message in traffic.up if isinstance(message, Observation)]
    for observation in observations:
        for path, leaf in leaves(observation):
            assert not isinstance(leaf, Tensor), path
            assert not isinstance(leaf, str) or leaf in (*tiny_batch.vocabulary, "north"), path
        assert observation.usual_entropy is None or len(observation.usual_entropy) == 19
    assert any(observation.usual_entropy for observation in observations)


def test_a_broadcast_holds_models_alone(traffic: Traffic) -> None:
    names = set(traffic.updates[0].weights)
    for message in traffic.down:
        for path, leaf in leaves(message):
            if isinstance(leaf, Tensor):
                assert path.partition("[")[2].rstrip("]") in names, path
        assert isinstance(message, GlobalModel) or not message.extras
    taught = [
        message.old_model is not None for message in traffic.down if isinstance(message, Broadcast)
    ]
    assert taught == [False, False, traffic.method.teaches, traffic.method.teaches]


def test_reconstructions_stay_with_the_proxy_server(traffic: Traffic) -> None:
    for message in traffic.down:
        assert not [
            path
            for path, leaf in leaves(message)
            if "prototype" in path or leaf == "prototype_images"
        ]


def test_a_twins_report_holds_neither_pixels_nor_positions(traffic: Traffic) -> None:
    for path, leaf in leaves(traffic.twin.report()):
        assert leaf is None or type(leaf) in (str, int, float, bool), path
    positions = {int(position) for position in traffic.twin.state.current}
    assert not positions <= {leaf for _, leaf in leaves(traffic.twin.report()) if type(leaf) is int}


def test_the_size_on_the_wire_is_that_of_the_elements() -> None:
    assert (
        num_bytes(
            {"a": torch.zeros(3), "b": torch.zeros((), dtype=torch.int64)},
            {"c": torch.zeros(2, 2, dtype=torch.uint8)},
        )
        == 24
    )
    assert num_bytes() == 0


@pytest.mark.parametrize("package", ["physical", "incremental", "twin", "federation"])
def test_the_four_packages_are_those_of_this_repository(package: str) -> None:
    place = import_module(package).__file__
    assert place is not None
    assert Path(place).resolve() == Path(__file__).resolve().parents[2] / package / "__init__.py"
