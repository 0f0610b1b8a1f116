from dataclasses import replace

import numpy as np
import pydantic
import pytest

from federation.server import ServerState, grow_for_new_classes
from incremental.detection import DetectionConfig
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from physical.transforms import to_tensor, to_unit
from tests.twin.federation_of_one import (
    FIRST,
    SECOND,
    Witness,
    broadcast,
    bytes_of,
    hospital_of,
    live,
    look,
    named,
    positions_of,
    share_named_rightly,
    with_twin,
)
from twin.config import TwinConfig, TwinSetting
from twin.twin import DigitalTwin


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_held_back_images_are_never_trained_on(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState, fraction: float
) -> None:
    twin = DigitalTwin(
        hospital_of(tiny_batch, (0, FIRST), (2, SECOND)),
        with_twin(setting, held_back_fraction=fraction),
    )
    witness, held = Witness(), set[int]()
    for _ in range(3):
        server, _ = grow_for_new_classes(server, [look(twin, server)])
        held |= set(twin.state.held_back.tolist())
        update = twin.train(broadcast(server, server.round), witness)
        server = replace(server, weights=update.weights, round=server.round + 1)
    assert len(twin.state.finished) == 1
    assert len(held) == 80 * fraction
    assert set(tiny_batch.labels[twin.state.held_back]) == set(SECOND)  # the open task's
    assert not held & set(twin.state.memory.all_positions().tolist())
    assert not witness.images() & {
        bytes_of(image) for image in to_unit(to_tensor(tiny_batch.images[sorted(held)]))
    }
    assert len(witness.images()) == 80 - len(held)


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.3, 0.4])
def test_the_share_that_is_held_back_is_the_one_asked_for(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState, fraction: float
) -> None:
    twin = DigitalTwin(
        hospital_of(tiny_batch, (0, FIRST)), with_twin(setting, held_back_fraction=fraction)
    )
    look(twin, server)
    assert len(twin.state.held_back) == pytest.approx(40 * fraction, abs=1)


@pytest.mark.parametrize("order", ["class by class", "alternating"])
def test_every_class_is_held_back_alike(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState, order: str
) -> None:
    own = positions_of(tiny_batch, FIRST)
    if order == "alternating":
        tiny_batch = tiny_batch.take(own.reshape(2, 20).T.flatten())
        own = np.arange(40)
    twin = DigitalTwin(
        Hospital("north", tiny_batch, [Arrival(0, own)]),
        with_twin(setting, held_back_fraction=0.25),
    )
    look(twin, server)
    assert np.bincount(tiny_batch.labels[twin.state.held_back]).tolist() == [0, 5, 5]


def test_accuracy_is_reported_for_held_back_images(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(
        hospital_of(tiny_batch, (0, FIRST)), with_twin(setting, held_back_fraction=0.5)
    )
    server, (first, second, *_) = live(twin, server, 3)
    assert (first.num_held_back, first.num_correct, first.usual_entropy) == (0, 0, None)
    assert second.num_held_back == 20
    last = look(twin, server)
    held = twin.state.held_back
    assert last.num_correct == round(20 * share_named_rightly(server, tiny_batch, held)) > 10
    assert last.usual_entropy is not None
    assert len(last.usual_entropy) == 19
    assert list(last.usual_entropy) == sorted(last.usual_entropy)


def test_entropies_of_a_handful_of_held_back_images_are_not_reported(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(
        hospital_of(tiny_batch, (0, FIRST)), with_twin(setting, held_back_fraction=0.25)
    )
    server, _ = live(twin, server, 2)
    observation = look(twin, server)
    assert observation.num_held_back == 10
    assert observation.usual_entropy is None


def test_the_calibrated_rule_needs_images_that_are_held_back() -> None:
    with pytest.raises(pydantic.ValidationError, match=r"set held_back_fraction to 0\.1"):
        TwinConfig(detection=DetectionConfig(rule="calibrated"))


def test_the_calibrated_rule_fires_for_new_classes_and_not_for_known_ones(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    setting = with_twin(
        setting, held_back_fraction=0.5, detection=DetectionConfig(rule="calibrated")
    )
    own = positions_of(tiny_batch, FIRST)
    arrivals = [
        Arrival(0, own[: 2 * 10]),
        Arrival(0, own[20:]),
        Arrival(5, positions_of(tiny_batch, (0, 3, 6, 7))),
    ]
    twin = DigitalTwin(Hospital("north", tiny_batch, arrivals), setting)
    server, observations = live(twin, server, 5)
    assert [observation.signal for observation in observations] == [
        True,
        False,
        False,
        False,
        False,
    ]
    found = look(twin, server)
    assert found.signal
    assert found.new_class_names == named(tiny_batch, (0, 3, 6, 7))
