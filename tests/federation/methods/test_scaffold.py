from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from federation.methods.fedavg import FedAvg
from federation.methods.scaffold import SCAFFOLD, total_step
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.network import IncrementalNetwork, NetworkConfig, build_network
from incremental.weight_tensors import parameters_of, with_label
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from physical.transforms import AugmentationConfig, to_tensor, to_unit
from twin.config import TwinConfig, TwinSetting
from twin.local_training import TrainingConfig
from twin.messages import Observation, TwinUpdate
from twin.objective import LocalContext
from twin.twin import DigitalTwin

NETWORK = NetworkConfig(backbone="lenet", width=4, image_size=16, norm="group")
RATE, EPOCHS = 0.05, 3
# A batch holds all images of a twin, so that the order in which they are drawn is no part of the
# comparison.
TRAINING = TrainingConfig(
    epochs=EPOCHS,
    batch_size=500,
    learning_rate=RATE,
    weight_decay=0.0,
    schedule="constant",
    gradient_clip=None,
    augmentation=AugmentationConfig(crop_padding_pixels=0, brightness=0.0),
)
FIRST = {
    "north": range(30),
    "east": range(20, 50),
    "south": range(10, 60, 2),
}  # classes 0 to 2, unevenly
SECOND = {
    "north": range(60, 80),
    "east": range(75, 95),
    "south": range(62, 100, 3),
}  # classes 3 and 4


class Rehearsal:
    """Rounds driven by hand, so that the head grows when the test says so; keeps what was sent."""

    def __init__(
        self,
        batch: Batch,
        method: SCAFFOLD,
        training: TrainingConfig = TRAINING,
        names: tuple[str, ...] = ("north", "east", "south"),
        second_at: int = 99,
    ) -> None:
        setting = TwinSetting(TwinConfig(), NETWORK, training, rounds_per_task=100)
        self.method, self.batch, self.broadcasts = method, batch, []  # type: ignore[var-annotated]  # any
        arrivals = {
            name: [Arrival(0, np.array(FIRST[name])), Arrival(second_at, np.array(SECOND[name]))]
            for name in names
        }
        self.twins = {
            name: DigitalTwin(Hospital(name, batch, arrivals[name]), setting) for name in names
        }
        self.server = new_server(NETWORK, 4, settle_rounds=0)
        self.updates: list[Any] = []

    def round(self, new_names: tuple[Any, ...] = (), names: tuple[str, ...] | None = None) -> None:
        self.server, _ = grow_for_new_classes(
            self.server, [Observation("north", self.server.round, 1, True, new_names)]
        )
        for twin in self.twins.values():
            twin.observe(self.server.model, build_network(NETWORK, self.server.weights))
        chosen = names or tuple(self.twins)
        self.broadcasts.append(
            {name: self.method.broadcast(self.server, None, name) for name in chosen}
        )
        self.updates.append(
            [self.twins[name].train(self.broadcasts[-1][name], self.method) for name in chosen]
        )
        server = self.method.aggregate(self.server, self.updates[-1])
        self.server = replace(server, round=server.round + 1)


def loop_by_hand(
    batch: Batch,
    data_of_rounds: list[list[tuple[Any, ...]]],
    start: dict[str, Tensor],
    new_rows: list[Any],
    momentum: float = 0.0,
) -> tuple[dict[str, Tensor], ...]:
    """Algorithm 1, option II, in plain torch; returns x and c after the last round."""
    x = {name: value.clone() for name, value in start.items()}
    c = {name: torch.zeros_like(value) for name, value in x.items()}
    own = [{name: torch.zeros_like(value) for name, value in x.items()} for _ in data_of_rounds[0]]
    for data, grown in zip(data_of_rounds, new_rows, strict=True):
        if grown is not None:
            for name, rows in grown.items():
                x[name] = torch.cat([x[name], rows])
                for each in (c, *own):
                    each[name] = torch.cat([each[name], torch.zeros_like(rows)])
        models, moves = [], []
        for twin, (positions, rows) in enumerate(data):
            network = IncrementalNetwork(NETWORK, len(x["head.bias"]))
            network.load_state_dict(x)
            images = torch.from_numpy(batch.images[positions]).permute(0, 3, 1, 2).float() / 255
            buffers: dict[Any, Any] = {}
            for step in range(EPOCHS):
                network.zero_grad()
                functional.cross_entropy(network(images).logits, rows).backward()
                with torch.no_grad():
                    for name, value in network.named_parameters():
                        gradient = value.grad + c[name] - own[twin][name]  # type: ignore[operator]  # untyped
                        buffers[name] = (
                            gradient if step == 0 else momentum * buffers[name] + gradient
                        )
                        value -= RATE * buffers[name]  # type: ignore[misc]  # untyped on purpose
            steps = (
                EPOCHS
                if momentum == 0
                else (EPOCHS - momentum * (1 - momentum**EPOCHS) / (1 - momentum)) / (1 - momentum)
            )
            y = {name: value.detach().clone() for name, value in network.named_parameters()}
            new = {
                name: own[twin][name] - c[name] + (x[name] - y[name]) / (steps * RATE) for name in y
            }
            moves.append({name: new[name] - own[twin][name] for name in y})
            own[twin] = new
            models.append(y)
        x = {name: sum(y[name] for y in models) / len(models) for name in x}  # type: ignore[misc]  # untyped on purpose
        c = {name: c[name] + sum(move[name] for move in moves) / len(moves) for name in c}
    return x, c


def data_of(batch: Batch, class_names: tuple[str, ...], positions: range) -> tuple[Any, ...]:
    rows = torch.tensor(
        [class_names.index(batch.vocabulary[label]) for label in batch.labels[np.array(positions)]]
    )
    return np.array(positions), rows


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_three_rounds_of_three_twins_are_the_loop_written_by_hand(
    tiny_batch: Batch, momentum: float
) -> None:
    play = Rehearsal(tiny_batch, SCAFFOLD(), replace(TRAINING, momentum=momentum))
    names = tiny_batch.vocabulary[:3]
    for new in (names, (), ()):
        play.round(new)
    data = [data_of(tiny_batch, names, FIRST[name]) for name in play.twins]
    start = dict(play.broadcasts[0]["north"].weights)
    x, c = loop_by_hand(tiny_batch, [data] * 3, start, [None] * 3, momentum)
    assert_near(play.server.weights, x)
    assert_near(with_label("control", play.server.kept), c)
    assert max(float(value.abs().max()) for value in c.values()) > 0.01


def test_growth_of_the_head_is_the_loop_with_rows_of_zeros(tiny_batch: Batch) -> None:
    play = Rehearsal(tiny_batch, SCAFFOLD(), names=("north", "east"), second_at=2)
    names = tiny_batch.vocabulary[:5]
    for new in (names[:3], (), names[3:], ()):
        play.round(new)
    data = [
        [data_of(tiny_batch, names, part[name]) for name in play.twins]
        for part in (FIRST, FIRST, SECOND, SECOND)
    ]
    start = dict(play.broadcasts[0]["north"].weights)
    grown = play.broadcasts[2]["north"].weights
    new_rows = {name: grown[name][3:] for name in ("head.weight", "head.bias")}
    x, c = loop_by_hand(tiny_batch, data, start, [None, None, new_rows, None])
    assert len(x["head.bias"]) == 5
    assert_near(play.server.weights, x)
    assert_near(with_label("control", play.server.kept), c)


def test_without_full_participation_c_is_the_mean_of_what_the_seen_twins_keep(
    tiny_batch: Batch,
) -> None:
    play = Rehearsal(tiny_batch, SCAFFOLD())
    for index, names in enumerate([("north", "east"), ("south",), ("north", "south")]):
        play.round(tiny_batch.vocabulary[:3] if not index else (), names)
        seen = {name for broadcasts in play.broadcasts for name in broadcasts}
        kept = [with_label("control", play.twins[name].state.kept) for name in sorted(seen)]
        mean = {name: sum(each[name] for each in kept) / len(kept) for name in kept[0]}
        assert_near(with_label("control", play.server.kept), cast(Any, mean))


def test_with_a_number_of_twins_c_moves_by_the_share_that_took_part(tiny_batch: Batch) -> None:
    play = Rehearsal(tiny_batch, SCAFFOLD(num_twins=10))
    play.round(tiny_batch.vocabulary[:3], ("north", "east"))
    kept = [with_label("control", play.twins[name].state.kept) for name in ("north", "east")]
    assert_near(
        with_label("control", play.server.kept),
        {name: (kept[0][name] + kept[1][name]) / 10 for name in kept[0]},
    )


def test_the_first_round_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any]
) -> None:
    assert same(
        play(SCAFFOLD(), rounds=1).server.weights,
        play(FedAvg(mean="equal"), rounds=1).server.weights,
    )
    assert not same(
        play(SCAFFOLD(), rounds=2).server.weights,
        play(FedAvg(mean="equal"), rounds=2).server.weights,
    )


def test_the_correction_has_the_gradient_c_minus_own(scene: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    like = parameters_of(scene.context.global_weights)
    everyone = {
        f"control/{name}": torch.randn(value.shape, generator=generator)
        for name, value in like.items()
    }
    own = {
        f"control/{name}": torch.randn(value.shape, generator=generator)
        for name, value in like.items()
    }
    own["control/head.bias"] = own["control/head.bias"][:3]  # kept before the head grew
    context = replace(scene.context, extras=everyone, kept=own)
    term = scene.terms(SCAFFOLD(), context)["correction"]
    assert term.item() == 0  # at the global model
    gradients = torch.autograd.grad(term, list(scene.network.parameters()))
    for (name, _), gradient in zip(scene.network.named_parameters(), gradients, strict=True):
        mine = own[f"control/{name}"]
        expected = everyone[f"control/{name}"].clone()
        expected[: len(mine)] -= mine
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_total_step_is_how_far_torchs_optimiser_moves_under_a_constant_gradient(
    momentum: float,
) -> None:
    rates = (0.3, 0.1)
    value = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimiser = torch.optim.SGD([value], lr=1.0, momentum=momentum)
    for rate in rates:
        optimiser.param_groups[0]["lr"] = rate
        for _ in range(4):
            value.grad = torch.ones((), dtype=torch.float64)
            optimiser.step()
    context = LocalContext(1, (), {}, num_steps=8, learning_rates=rates, momentum=momentum)
    assert total_step(context) == pytest.approx(-value.item(), rel=1e-12)


def test_one_number_crosses_the_wall_and_the_seed_decides(
    play: Callable[..., Any], same: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    played = play(SCAFFOLD(memory=True))
    assert_wall(played, {"total_step"})
    assert SCAFFOLD.uploads
    assert all(each.upload["total_step"].numel() == 1 for each in played.updates)
    assert len(played.server.task_begins) > 2
    assert len(played.server.kept["control/head.bias"]) == len(played.server.class_names)
    again = play(SCAFFOLD(memory=True))
    assert same(played.server.weights, again.server.weights) and same(
        played.server.kept, again.server.kept
    )


@pytest.mark.parametrize(
    "upload",
    [
        {},
        {"total_step": torch.tensor(0.0)},
        {"total_step": torch.tensor(-1.0)},
        {"total_step": torch.ones(2)},
        {"total_step": torch.tensor(3)},
    ],
)
def test_an_unreadable_step_moves_the_model_and_not_c(
    grown: ServerState, upload: dict[str, Any]
) -> None:
    update = TwinUpdate(
        "north",
        0,
        {name: value + 1 for name, value in grown.weights.items()},
        10,
        upload,
        class_names=grown.class_names,
    )
    after = SCAFFOLD().aggregate(grown, [update])
    assert not after.kept
    torch.testing.assert_close(after.weights["head.bias"], grown.weights["head.bias"] + 1)


def test_a_negative_number_of_twins_is_refused() -> None:
    with pytest.raises(ValueError, match="num_twins is -1; allowed: 1 or more"):
        SCAFFOLD(num_twins=-1)


def test_the_images_of_the_hand_written_loop_are_those_that_twins_train_on(
    tiny_batch: Batch,
) -> None:
    images = torch.from_numpy(tiny_batch.images[:3]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(images, to_unit(to_tensor(tiny_batch.images[:3])))
