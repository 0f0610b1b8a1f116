from dataclasses import replace

import numpy as np
import pytest
import torch

from federation.server import ServerState, grow_for_new_classes
from incremental.inference import features_of
from incremental.network import build_network, weights_of
from physical.batch import Batch
from physical.transforms import to_tensor, to_unit
from tests.twin.federation_of_one import (
    FIRST,
    METHOD,
    SECOND,
    Witness,
    announce,
    broadcast,
    bytes_of,
    deaf,
    hospital_of,
    live,
    look,
    positions_of,
    share_named_rightly,
)
from twin.config import TwinSetting
from twin.messages import TwinUpdate
from twin.state import from_plain, to_plain
from twin.twin import DigitalTwin


def test_training_twice_with_one_broadcast_gives_identical_weights(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    setting = replace(
        setting,
        training=replace(
            setting.training, augmentation=type(setting.training.augmentation)(2, True, 0.2)
        ),
    )
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    message = broadcast(server)
    first, second = twin.train(message, METHOD), twin.train(message, METHOD)
    restored = DigitalTwin(
        hospital_of(tiny_batch, (0, FIRST)), setting, from_plain(*to_plain(twin.state))
    )
    third, other = restored.train(message, METHOD), twin.train(replace(message, seed=2), METHOD)
    for update in (second, third):
        assert all(
            torch.equal(first.weights[name], value) for name, value in update.weights.items()
        )
        assert update.metrics == first.metrics
    assert not all(torch.equal(first.weights[name], value) for name, value in other.weights.items())


def test_training_leaves_the_broadcast_as_it_was(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    before = {name: value.clone() for name, value in server.weights.items()}
    update = twin.train(broadcast(server), METHOD)
    assert all(torch.equal(value, before[name]) for name, value in server.weights.items())
    assert not torch.equal(update.weights["head.weight"], before["head.weight"])


def test_a_twin_learns_its_classes(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = live(twin, server, 3)
    assert share_named_rightly(server, tiny_batch, positions_of(tiny_batch, FIRST)) > 0.95


@pytest.mark.parametrize("replays", [True, False])
def test_exemplars_are_trained_on_where_the_method_replays(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState, replays: bool
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    server, _ = live(twin, server, 2)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    witness = Witness(replays)
    update = twin.train(broadcast(server), witness)
    expected = np.concatenate(
        [twin.state.current, *(twin.state.memory.positions.values() if replays else ())]
    )
    assert update.num_images == len(expected)
    pixels = to_unit(to_tensor(tiny_batch.images[expected]))
    assert witness.images() == {bytes_of(image) for image in pixels}


def test_rows_are_those_of_the_broadcasts_class_list(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server = announce(
        server, tiny_batch, (5, 2, 1)
    )  # another hospital's class first, and the twin's two the other way round
    look(twin, server)
    witness = Witness()
    twin.train(broadcast(server), witness)
    labels = {
        bytes_of(image): label
        for image, label in zip(
            to_unit(to_tensor(tiny_batch.images)), tiny_batch.labels, strict=True
        )
    }
    for batch in witness.batches:
        for image, row in zip(batch.images, batch.rows, strict=True):
            assert server.class_names[row] == tiny_batch.vocabulary[labels[bytes_of(image)]]
    assert witness.contexts[0].groups == ((2, 1),)


def test_a_method_gets_the_rows_of_its_twins_tasks(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    server, _ = live(twin, server, 2)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    server = announce(server, tiny_batch, (7,))
    witness = Witness()
    twin.train(broadcast(server), witness)
    (context,) = witness.contexts
    assert context.groups == ((0, 1), (2, 3))
    assert (context.num_finished, context.num_current, context.num_rows) == (2, 2, 5)
    assert context.group_of_rows().tolist() == [0, 0, 1, 1, -1]
    assert context.fresh_task
    assert context.num_steps == len(witness.batches) == 6 * 4
    assert context.learning_rates == (0.2,) * 6


def test_a_task_is_fresh_until_its_twin_has_trained(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    witness = Witness()
    for _ in range(2):
        twin.train(broadcast(server), witness)
    assert [context.fresh_task for context in witness.contexts] == [True, False]


def test_a_twin_uploads_and_keeps_what_its_method_returns(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    witness = Witness(upload={"drift": torch.ones(2)}, keep={"control": torch.zeros(3)})
    update = twin.train(broadcast(server), witness)
    twin.train(broadcast(server), witness)
    assert update.upload.keys() == {"drift"}
    assert not witness.contexts[0].kept
    assert witness.contexts[1].kept.keys() == {"control"}


def test_prototypes_are_the_images_nearest_to_the_mean_of_each_current_class(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    witness = Witness()
    update = twin.train(broadcast(server), witness)
    network = build_network(server.network, update.weights)
    assert witness.prototypes is not None
    images, rows = witness.prototypes
    assert rows.tolist() == [0, 1]
    for image, label in zip(images, FIRST, strict=True):
        pixels = to_tensor(tiny_batch.images[positions_of(tiny_batch, (label,))])
        features = torch.nn.functional.normalize(features_of(network, pixels).double(), dim=1)
        nearest = int((features - features.mean(0)).norm(dim=1).argmin())
        torch.testing.assert_close(image, to_unit(pixels)[nearest])


def test_training_without_an_image_of_a_known_class_is_an_error(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), deaf(setting))
    server = announce(server, tiny_batch, (5,))
    look(twin, server)
    with pytest.raises(ValueError, match="twin north was asked to train in round 0"):
        twin.train(broadcast(server), METHOD)


def test_an_update_is_a_copy_of_the_local_model(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    update: TwinUpdate = twin.train(broadcast(server), METHOD)
    assert update.weights.keys() == server.weights.keys()
    for name, value in weights_of(build_network(server.network, update.weights)).items():
        assert value.shape == server.weights[name].shape
        assert value.dtype == server.weights[name].dtype
    assert update.metrics.keys() == {"classification", "total", "gradient_norm"}
