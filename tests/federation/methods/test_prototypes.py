from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from federation.aggregation.means import Arrived
from federation.methods import prototypes as module
from federation.methods.prototypes import encode_prototypes, score_on_prototypes
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.inference import logits_of
from incremental.network import IncrementalNetwork, NetworkConfig, build_network
from incremental.reconstruction import GradientEncoder, ReconstructionConfig
from physical.batch import Batch
from physical.transforms import to_tensor, to_unit
from twin.messages import Observation, TwinUpdate
from twin.objective import LocalContext

CONFIG = ReconstructionConfig(perturb_steps=2, invert_steps=4)
NAMES = ("liver", "lung", "heart")
COPIES = 5  # of each reconstruction in the test: itself and four varied ones


@pytest.fixture
def server(tiny_network: NetworkConfig) -> ServerState:
    return grow_for_new_classes(
        new_server(tiny_network, 1, settle_rounds=0), [Observation("north", 0, 1, True, NAMES)]
    )[0]


@pytest.fixture
def network(server: ServerState) -> IncrementalNetwork:
    return build_network(server.network, server.weights)


@pytest.fixture
def prototypes(tiny_batch: Batch) -> tuple[Tensor, Tensor]:
    return to_unit(to_tensor(tiny_batch.images[[0, 25]])), torch.tensor([2, 0])


def context_of(server: ServerState, found: tuple[Tensor, Tensor], **changes: Any) -> LocalContext:
    rows = len(server.class_names)
    made = LocalContext(
        rows, ((0, 1),), server.weights, fresh_task=True, prototypes=lambda network: found
    )
    return replace(made, **changes)


def update(server: ServerState, upload: Any, twin: str = "north") -> TwinUpdate:
    return TwinUpdate(twin, server.round, server.weights, 5, upload, class_names=server.class_names)


def collect_prototypes(
    server: ServerState, updates: Sequence[TwinUpdate], config: ReconstructionConfig
) -> ServerState:
    return module.collect_prototypes(server, [Arrived(each) for each in updates], config)


@pytest.fixture
def upload(
    server: ServerState, network: IncrementalNetwork, prototypes: tuple[Tensor, Tensor]
) -> Any:
    return encode_prototypes(network, context_of(server, prototypes), CONFIG)


def test_an_upload_is_one_gradient_per_prototype_and_their_shape(
    upload: Any, server: ServerState
) -> None:
    length = sum(
        value.numel() for value in GradientEncoder((3, 16, 16), 3, CONFIG.public_seed).parameters()
    )
    assert upload.keys() == {"prototype_gradients", "prototype_shape"}
    assert upload["prototype_gradients"].shape == (2, length)
    assert upload["prototype_shape"].tolist() == [3, 16, 16]


@pytest.mark.parametrize("changes", [{"fresh_task": False}, {"prototypes": None}])
def test_only_a_twin_whose_task_has_just_begun_uploads(
    server: ServerState,
    network: IncrementalNetwork,
    prototypes: tuple[Tensor, Tensor],
    changes: Any,
) -> None:
    assert encode_prototypes(network, context_of(server, prototypes, **changes), CONFIG) == {}


def test_the_server_reads_the_classes_and_keeps_images_of_8_bits(
    server: ServerState, upload: Any
) -> None:
    kept = collect_prototypes(server, [update(server, upload)], CONFIG).kept
    assert kept["prototype_images"].shape == (2 * COPIES, 3, 16, 16)
    assert kept["prototype_images"].dtype == torch.uint8
    assert kept["prototype_rows"].tolist() == [2, 0] * COPIES
    assert not server.kept


def test_what_several_twins_send_is_collected_at_once_and_over_rounds(
    server: ServerState, upload: Any
) -> None:
    first = collect_prototypes(
        server,
        [update(server, upload), update(server, upload, "south"), update(server, {})],
        CONFIG,
    )
    assert len(first.kept["prototype_rows"]) == 4 * COPIES
    second = collect_prototypes(
        replace(first, round=1), [update(replace(first, round=1), upload)], CONFIG
    )
    assert len(second.kept["prototype_images"]) == len(second.kept["prototype_rows"]) == 6 * COPIES
    assert torch.equal(
        second.kept["prototype_images"][: 4 * COPIES], first.kept["prototype_images"]
    )


def test_a_new_task_starts_with_an_empty_test(server: ServerState, upload: Any) -> None:
    first = collect_prototypes(server, [update(server, upload)], CONFIG)
    grown, _ = grow_for_new_classes(
        replace(first, round=4), [Observation("north", 4, 1, True, ("spleen",))]
    )
    assert (
        score_on_prototypes(grown) is not None
    )  # the closing task's models are still judged by its own test
    assert score_on_prototypes(collect_prototypes(grown, [update(grown, {})], CONFIG)) is None


def test_what_a_method_keeps_besides_stays(server: ServerState, upload: Any) -> None:
    server = replace(server, kept={"control": torch.ones(2)})
    assert collect_prototypes(server, [update(server, upload)], CONFIG).kept[
        "control"
    ].tolist() == [1, 1]


def test_the_score_is_the_accuracy_on_the_reconstructions(server: ServerState, upload: Any) -> None:
    assert score_on_prototypes(server) is None
    told = collect_prototypes(server, [update(server, upload)], CONFIG)
    score = score_on_prototypes(told)
    assert score is not None
    logits = logits_of(build_network(told.network, told.weights), told.kept["prototype_images"])
    assert score.value == pytest.approx(
        float((logits.argmax(1) == told.kept["prototype_rows"]).float().mean())
    )
    more = collect_prototypes(told, [update(told, upload)], CONFIG)
    again = score_on_prototypes(more)
    assert again is not None
    assert again.test != score.test  # scores of different tests are never compared


def test_a_model_made_to_see_the_prototypes_scores_best(server: ServerState, upload: Any) -> None:
    told = collect_prototypes(server, [update(server, upload)], CONFIG)
    images, rows = told.kept["prototype_images"], told.kept["prototype_rows"]
    network = build_network(told.network, told.weights)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.2)
    for _ in range(40):
        optimiser.zero_grad()
        logits = network.eval()(to_unit(images)).logits
        torch.nn.functional.cross_entropy(logits, rows).backward()
        optimiser.step()
    trained = replace(
        told, weights={name: value.detach() for name, value in network.state_dict().items()}
    )
    before, after = score_on_prototypes(told), score_on_prototypes(trained)
    assert before is not None
    assert after is not None
    assert after.value > before.value


def test_reconstruction_depends_on_the_run_and_the_round_alone(
    server: ServerState, upload: Any
) -> None:
    state = torch.get_rng_state()
    images = [
        collect_prototypes(each, [update(each, upload)], CONFIG).kept["prototype_images"]
        for each in (server, server, replace(server, round=1))
    ]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "wrong",
    [
        {"prototype_gradients": torch.zeros(2, 7)},
        {"prototype_gradients": torch.zeros(7)},
        {"prototype_shape": torch.tensor(3)},
        {"prototype_shape": torch.tensor([3, 16])},
        {"prototype_shape": torch.tensor([2, 16, 16])},
        {"prototype_shape": torch.tensor([3, 4096, 4096])},
        {"prototype_shape": torch.tensor([3, 0, 0])},
        {"prototype_shape": torch.tensor([3, -16, 16])},
    ],
    ids=["short", "flat", "no sides", "two sides", "two channels", "huge", "empty", "negative"],
)
def test_an_upload_that_cannot_be_inverted_is_left_out(
    server: ServerState, upload: Any, wrong: Any
) -> None:
    told = collect_prototypes(server, [update(server, {**upload, **wrong})], CONFIG)
    assert score_on_prototypes(told) is None


def test_half_an_upload_is_left_out(server: ServerState, upload: Any) -> None:
    for name in upload:
        assert (
            score_on_prototypes(
                collect_prototypes(server, [update(server, {name: upload[name]})], CONFIG)
            )
            is None
        )


@pytest.mark.parametrize(
    "shape", [[3, 16, 16], [1, 8, 8]], ids=["of the right shape", "of another shape"]
)
def test_one_wrong_upload_does_not_spoil_the_others(
    server: ServerState, upload: Any, shape: list[int]
) -> None:
    wrong = {"prototype_gradients": torch.zeros(1, 7), "prototype_shape": torch.tensor(shape)}
    told = collect_prototypes(
        server, [update(server, wrong, "south"), update(server, upload)], CONFIG
    )
    assert len(told.kept["prototype_rows"]) == 2 * COPIES


def test_a_later_upload_of_another_shape_does_not_stop_the_round(
    server: ServerState, network: IncrementalNetwork, upload: Any, prototypes: tuple[Tensor, Tensor]
) -> None:
    images, rows = prototypes
    small = encode_prototypes(
        network, context_of(server, (images[:, :1, :8, :8].contiguous(), rows)), CONFIG
    )
    told = collect_prototypes(server, [update(server, upload)], CONFIG)
    later = replace(told, round=1)
    again = collect_prototypes(later, [update(later, small)], CONFIG)
    assert score_on_prototypes(again) is not None
