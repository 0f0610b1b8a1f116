from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from federation.methods.bic import BiC
from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA
from federation.methods.fedprox import FedProx
from federation.methods.icarl import ICaRL
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.network import build_network
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from twin.config import TwinSetting
from twin.messages import Observation, TwinUpdate
from twin.privacy.accounting import check_guarantee, check_noise_is_secret
from twin.privacy.differential_privacy import PrivacyError, PrivacySpent, UpdateNoise, epsilon_of
from twin.privacy.private_training import PrivateTraining
from twin.privacy.update_release import UpdateReleaseConfig
from twin.twin import DigitalTwin

METHOD = FedAvg(memory=True)
NOISE = UpdateNoise(clip_norm=1.0, noise_multiplier=5.0)


@pytest.fixture
def hospital(tiny_batch: Batch) -> Hospital:
    return Hospital(
        "north", tiny_batch, [Arrival(0, np.flatnonzero(np.isin(tiny_batch.labels, (1, 2))))]
    )


@pytest.fixture
def bare(tiny_setting: TwinSetting) -> TwinSetting:
    return replace(tiny_setting, network=replace(tiny_setting.network, norm="group"))


def private(setting: TwinSetting, **changes: Any) -> TwinSetting:
    return replace(
        setting,
        training=replace(
            setting.training, private=PrivateTraining(noise_multiplier=2.0, **changes)
        ),
    )


def noisy(setting: TwinSetting, **changes: Any) -> TwinSetting:
    return replace(setting, outgoing=UpdateReleaseConfig(noise=replace(NOISE, **changes)))


@dataclass
class Life:
    """A federation of one twin, asked to train while it says that it has something to train on."""

    twin: DigitalTwin
    server: ServerState
    observations: list[Observation] = field(default_factory=list)
    updates: list[TwinUpdate] = field(default_factory=list)

    def live(self, rounds: int) -> "Life":
        for _ in range(rounds):
            seen = self.twin.observe(
                self.server.model, build_network(self.server.network, self.server.weights)
            )
            self.observations.append(seen)
            self.server, _ = grow_for_new_classes(self.server, [seen])
            if seen.num_trainable:
                self.updates.append(
                    self.twin.train(METHOD.broadcast(self.server, None, "north"), METHOD)
                )
                self.server = replace(self.server, weights=self.updates[-1].weights)
            self.server = replace(self.server, round=self.server.round + 1)
        return self

    @property
    def what(self) -> list[str]:
        return [event["what"] for event in self.twin.state.events]


def life(hospital: Hospital, setting: TwinSetting) -> Life:
    return Life(
        DigitalTwin(hospital, setting), new_server(setting.network, seed=1, settle_rounds=0)
    )


# --- what a twin spends and tells ---


def test_a_twin_counts_every_step_of_private_training_and_reports_epsilon_and_no_loss(
    hospital: Hospital, bare: TwinSetting
) -> None:
    pytest.importorskip("opacus")
    lived = life(hospital, private(bare)).live(3)
    assert lived.twin.state.privacy == (
        PrivacySpent(2.0, 16 / 40, 3 * 2 * 3, True),
    )  # 40 images by 16: 3 steps, 2 epochs, 3 rounds
    told = [dict(update.metrics) for update in lived.updates]
    assert told == [
        {"epsilon": epsilon_of([PrivacySpent(2.0, 16 / 40, 6 * rounds, True)], 1e-5)}
        for rounds in (1, 2, 3)
    ]


def test_a_twin_counts_every_noisy_update_and_reports_epsilon_and_no_loss(
    hospital: Hospital, bare: TwinSetting
) -> None:
    lived = life(hospital, noisy(bare)).live(2)
    assert lived.twin.state.privacy == (PrivacySpent(2.5, 1.0, 2, True),)
    assert [update.metrics for update in lived.updates] == [
        {"epsilon": epsilon_of([PrivacySpent(2.5, 1.0, rounds, True)], 1e-5)} for rounds in (1, 2)
    ]


def test_without_a_mechanism_nothing_is_spent_and_losses_are_reported(
    hospital: Hospital, bare: TwinSetting
) -> None:
    lived = life(hospital, bare).live(1)
    assert lived.twin.state.privacy == ()
    assert lived.updates[0].metrics.keys() == {"classification", "total", "gradient_norm"}


def test_the_update_that_leaves_is_the_noisy_one(hospital: Hospital, bare: TwinSetting) -> None:
    plain, hidden = (
        life(hospital, bare).live(1).updates[0],
        life(hospital, noisy(bare)).live(1).updates[0],
    )
    size = sum(value.numel() for value in plain.weights.values())
    apart = sum(
        float((hidden.weights[name] - value).square().sum())
        for name, value in plain.weights.items()
    )
    assert apart > 0.5 * size * 5.0**2  # noise of deviation 5 on every weight


# --- the budget ---


def epsilon_after(setting: TwinSetting, hospital: Hospital, rounds: int) -> float:
    return life(hospital, setting).live(rounds).updates[-1].metrics["epsilon"]


@pytest.mark.parametrize("protect", [noisy, private], ids=["noise on updates", "private training"])
def test_a_twin_whose_budget_is_spent_says_so_once_and_is_not_asked_any_more(
    hospital: Hospital, bare: TwinSetting, protect: Any
) -> None:
    if protect is private:
        pytest.importorskip("opacus")
    budget = epsilon_after(protect(bare), hospital, 2)
    lived = life(hospital, protect(bare, epsilon_budget=budget)).live(5)
    assert [seen.num_trainable for seen in lived.observations] == [40, 40, 0, 0, 0]
    assert lived.updates[-1].metrics["epsilon"] == budget
    (said,) = [what for what in lived.what if "trains no more" in what]
    assert f"epsilon {budget:g}" in said and f"{budget:.3g} is spent" in said


def test_a_twin_without_budget_refuses_to_train_for_a_server_that_asks(
    hospital: Hospital, bare: TwinSetting
) -> None:
    lived = life(hospital, noisy(bare, epsilon_budget=0.5)).live(1)
    assert lived.updates == []
    state = lived.twin.state
    with pytest.raises(
        PrivacyError, match=r"privacy budget of epsilon 0\.5.*should not have been asked"
    ):
        lived.twin.train(METHOD.broadcast(lived.server, None, "north"), METHOD)
    assert lived.twin.state is state


def test_a_budget_too_small_for_one_round_is_never_used(
    hospital: Hospital, bare: TwinSetting
) -> None:
    lived = life(hospital, noisy(bare, epsilon_budget=1e-3)).live(2)
    assert [seen.num_trainable for seen in lived.observations] == [0, 0]
    assert lived.twin.state.privacy == ()


# --- what fits together ---


class Secretive(FedAvg):
    """Uploads what it does not declare."""

    def finish_local(
        self, network: object, context: object
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        return {"mean_image": torch.zeros(3)}, {}


def test_an_upload_that_a_method_does_not_declare_does_not_leave_past_the_noise(
    hospital: Hospital, bare: TwinSetting
) -> None:
    twin, server = (
        DigitalTwin(hospital, noisy(bare)),
        new_server(bare.network, seed=1, settle_rounds=0),
    )
    server, _ = grow_for_new_classes(
        server, [twin.observe(server.model, build_network(server.network, server.weights))]
    )
    with pytest.raises(PrivacyError, match="uploads mean_image beside its weights"):
        twin.train(METHOD.broadcast(server, None, "north"), Secretive())


def test_private_training_with_a_loss_that_is_no_mean_over_images_is_refused(
    hospital: Hospital, bare: TwinSetting
) -> None:
    twin, server = (
        DigitalTwin(hospital, private(bare)),
        new_server(bare.network, seed=1, settle_rounds=0),
    )
    server, _ = grow_for_new_classes(
        server, [twin.observe(server.model, build_network(server.network, server.weights))]
    )
    with pytest.raises(PrivacyError, match="the loss of FedProx"):
        twin.train(METHOD.broadcast(server, None, "north"), FedProx())


REFUSED = [
    (private, "batch", METHOD, ["network.norm is batch", "set it to group"]),
    (noisy, "batch", METHOD, ["network.norm is batch"]),
    (
        private,
        "group",
        FedKA(),
        [
            "loss of FedKA with these settings is no mean over images",
            "set method.reconstruction: null",
        ],
    ),
    (private, "group", FedKA(reconstruction=None), ["compares images of a batch with each other"]),
    (
        noisy,
        "group",
        FedKA(),
        ["uploads prototype_gradients, prototype_shape, which would leave without noise"],
    ),
    (private, "group", ICaRL(), ["set method.sends_class_means: false"]),
    (noisy, "group", BiC(), ["set method.held_out_fraction: 0"]),
    (lambda setting: noisy(private(setting)), "group", METHOD, ["both set"]),
]


@pytest.mark.parametrize(("protect", "norm", "method", "messages"), REFUSED)
def test_a_setting_in_which_something_would_leave_unprotected_is_refused(
    bare: TwinSetting, protect: Any, norm: Any, method: object, messages: list[str]
) -> None:
    setting = protect(bare)
    with pytest.raises(PrivacyError) as caught:
        check_guarantee(
            replace(bare.network, norm=norm), setting.training, setting.outgoing.noise, method
        )
    assert all(message in str(caught.value) for message in messages)


@pytest.mark.parametrize(
    "method",
    [
        METHOD,
        FedProx(mu=0.0),
        ICaRL(sends_class_means=False),
        FedKA(reconstruction=None, weighting="none", attention_weight=0.0),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_setting_that_protects_all_that_leaves_is_accepted(
    bare: TwinSetting, method: object
) -> None:
    for setting in (bare, private(bare), noisy(bare)):
        check_guarantee(bare.network, setting.training, setting.outgoing.noise, method)
    check_guarantee(
        bare.network, bare.training, NOISE, FedProx()
    )  # noise on the whole update asks nothing of the loss


def test_seeded_noise_is_refused_in_deployments(bare: TwinSetting) -> None:
    check_noise_is_secret(bare.training, None)
    check_noise_is_secret(
        private(bare, noise_source="system").training, replace(NOISE, noise_source="system")
    )
    with pytest.raises(
        PrivacyError, match=r"training\.private\.noise_source is 'seeded'.*set it to system"
    ):
        check_noise_is_secret(private(bare).training, None)
    with pytest.raises(PrivacyError, match=r"outgoing\.noise\.noise_source"):
        check_noise_is_secret(bare.training, NOISE)
