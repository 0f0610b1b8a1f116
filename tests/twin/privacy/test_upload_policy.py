from dataclasses import replace
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.methods import METHODS
from federation.methods.analytic import Analytic
from federation.methods.bic import BiC
from federation.methods.fedavg import FedAvg
from federation.methods.fedcurv import FedCurv
from federation.methods.fedka import FedKA
from federation.methods.glfc import GLFC
from federation.methods.icarl import ICaRL
from federation.methods.lga import LGA
from federation.methods.scaffold import SCAFFOLD
from federation.round import RoundConfig, run_round
from federation.server import new_server
from incremental.proxy import ProxyConfig, ProxyServer
from incremental.reconstruction import ReconstructionConfig
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from twin.config import TwinSetting
from twin.messages import Broadcast, TwinUpdate
from twin.privacy.accounting import EPSILON
from twin.privacy.upload_policy import (
    UploadForbidden,
    UploadKind,
    UploadKinds,
    UploadPolicy,
    check_method,
    check_upload,
    without_metrics,
)
from twin.twin import DigitalTwin

FEW_STEPS = ReconstructionConfig(perturb_steps=1, invert_steps=2)
SENDING = {  # each with settings under which it uploads all that it ever does within a few rounds
    "fedka": FedKA(reconstruction=FEW_STEPS),
    "glfc": GLFC(reconstruction=FEW_STEPS),
    "lga": LGA(reconstruction=FEW_STEPS),
    "bic": BiC(held_out_fraction=0.4),
    "icarl": ICaRL(least_images=1),
    "fedcurv": FedCurv(fisher_images=5),
    "analytic": Analytic(warm_up_rounds=1),
}
SILENT = (
    FedKA(reconstruction=None),
    ICaRL(sends_class_means=False),
    BiC(held_out_fraction=0.0),
    FedCurv(curvature_weight=0.0),
)


class Listening(SequentialEngine):
    """An engine that notes what leaves its twins."""

    def __init__(self, hospitals: SimulatedHospitals) -> None:
        super().__init__(hospitals)
        self.left: list[Any] = []

    def train(self, method: Any, broadcasts: Any) -> Any:
        updates = list(super().train(method, broadcasts))
        self.left += updates
        return updates


def uploads_of(method: Any, hospitals: SimulatedHospitals, rounds: int = 4) -> list[Any]:
    engine, proxy = Listening(hospitals), ProxyServer(ProxyConfig())
    server = new_server(hospitals.setting.network, 1, settle_rounds=0)
    for _ in range(rounds):
        server, _ = run_round(server, cast(Any, engine), method, proxy, RoundConfig())
    return [each.upload for each in engine.left]


@pytest.fixture(scope="module")
def gentle_ward(tiny_hospitals: SimulatedHospitals) -> SimulatedHospitals:
    return replace(
        tiny_hospitals,
        setting=replace(
            tiny_hospitals.setting,
            training=replace(tiny_hospitals.setting.training, learning_rate=0.05),
        ),
    )


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_uploads_is_what_it_declares(
    name: str, gentle_ward: SimulatedHospitals
) -> None:
    method = SENDING.get(name) or METHODS[name]()
    sent = {
        tensor.partition("/")[0] for upload in uploads_of(method, gentle_ward) for tensor in upload
    }
    assert sent == set(method.upload_kinds.by_tensor)
    assert bool(sent) == bool(method.uploads)


@pytest.mark.parametrize("method", SILENT, ids=lambda method: type(method).__name__)
def test_a_method_set_to_upload_nothing_declares_and_uploads_nothing(
    method: Any, gentle_ward: SimulatedHospitals
) -> None:
    assert method.upload_kinds == UploadKinds()
    assert not any(uploads_of(method, gentle_ward))
    check_method(method, UploadPolicy(get_args(UploadKind)))


@pytest.mark.parametrize("name", METHODS)
def test_each_declared_kind_is_a_word_that_a_hospital_can_forbid_and_each_way_out_is_a_setting(
    name: str,
) -> None:
    declared = (SENDING.get(name) or METHODS[name]()).upload_kinds
    for kind in declared.all():
        with pytest.raises(UploadForbidden):
            check_method(SENDING.get(name) or METHODS[name](), UploadPolicy((kind,)))
    if declared.avoided_by:
        setting = declared.avoided_by.partition(":")[0]
        assert setting in METHODS[name].__dataclass_fields__  # type: ignore[attr-defined]  # looked up where it is used


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="prototype_gradients"):
        UploadPolicy(cast(Any, ("pixels",)))
    with pytest.raises(ValidationError):
        UploadPolicy(forbidden=("metrics",))  # type: ignore[call-arg]  # wrong on purpose


def test_a_refusal_says_which_method_which_kind_and_what_to_change() -> None:
    with pytest.raises(UploadForbidden) as caught:
        check_method(FedKA(), UploadPolicy(("metrics", "prototype_gradients")))
    text = str(caught.value)
    assert "FedKA uploads prototype_gradients" in text
    assert "set method.reconstruction: null" in text and "out of the policy's forbid" in text
    with pytest.raises(UploadForbidden, match="choose another method: this one needs it"):
        check_method(SCAFFOLD(), UploadPolicy(("control_variates",)))


def test_models_to_other_hospitals_can_be_forbidden_and_no_method_sends_any() -> None:
    policy = UploadPolicy(("models_to_other_hospitals",))
    for kind in METHODS.values():
        check_method(kind(), policy)

    class Gossip(FedAvg):
        @property
        def upload_kinds(self) -> UploadKinds:
            return UploadKinds(relayed=("models_to_other_hospitals",))

    with pytest.raises(UploadForbidden, match="Gossip uploads models_to_other_hospitals"):
        check_method(Gossip(), policy)


def test_an_undeclared_upload_does_not_pass_a_hospital_that_forbids_anything() -> None:
    hidden = {"prototype_images": torch.zeros(1)}
    check_upload(FedAvg(), UploadPolicy(), hidden)
    with pytest.raises(
        UploadForbidden, match="uploads prototype_images, whose kind it does not declare"
    ):
        check_upload(FedAvg(), UploadPolicy(("metrics",)), hidden)
    with pytest.raises(UploadForbidden, match="does not declare"):
        check_upload(object(), UploadPolicy(("class_counts",)), hidden)
    check_upload(object(), UploadPolicy(("class_counts",)), {})


def test_an_upload_is_checked_by_the_part_of_its_name_before_the_first_slash() -> None:
    fisher = {"fisher/head.weight": torch.zeros(1), "fisher/head.bias": torch.zeros(1)}
    check_upload(FedCurv(), UploadPolicy(("class_counts",)), fisher)
    with pytest.raises(UploadForbidden, match="fisher_information"):
        check_upload(FedCurv(), UploadPolicy(("fisher_information",)), fisher)


def test_loss_means_are_left_out_and_epsilon_is_not() -> None:
    update = TwinUpdate(
        "north",
        0,
        {},
        3,
        metrics={"total": 1.0, "gradient_norm": 2.0, EPSILON: 0.5},
        class_names=(),
    )
    assert without_metrics(update).metrics == {EPSILON: 0.5}
    assert update.metrics["total"] == 1.0


def twin_and_broadcast(
    tiny_batch: Batch, tiny_setting: TwinSetting, policy: UploadPolicy | None
) -> tuple[Any, ...]:
    from federation.server import grow_for_new_classes
    from incremental.network import build_network

    twin = DigitalTwin(
        Hospital("north", tiny_batch, [Arrival(0, np.arange(40))]), tiny_setting, policy=policy
    )
    server = new_server(tiny_setting.network, 1, settle_rounds=0)
    observation = twin.observe(server.model, build_network(server.network, server.weights))
    server, _ = grow_for_new_classes(server, [observation])
    return twin, Broadcast(server.weights, server.class_names, 0, 0, 5)


def test_a_twin_refuses_a_method_before_it_trains_and_stays_as_it_was(
    tiny_batch: Batch, tiny_setting: TwinSetting
) -> None:
    twin, broadcast = twin_and_broadcast(
        tiny_batch, tiny_setting, UploadPolicy(("prototype_gradients",))
    )
    before = twin.state
    with pytest.raises(UploadForbidden, match="FedKA uploads prototype_gradients"):
        twin.train(broadcast, FedKA(reconstruction=FEW_STEPS))
    assert twin.state is before
    assert twin.train(broadcast, FedKA(reconstruction=None)).num_images == 40


def test_a_twin_whose_hospital_forbids_metrics_sends_none_and_its_history_says_so(
    tiny_batch: Batch, tiny_setting: TwinSetting
) -> None:
    silent, broadcast = twin_and_broadcast(tiny_batch, tiny_setting, UploadPolicy(("metrics",)))
    open_one, _ = twin_and_broadcast(tiny_batch, tiny_setting, None)
    update, same_but_open = silent.train(broadcast, FedAvg()), open_one.train(broadcast, FedAvg())
    assert update.metrics == {} and same_but_open.metrics["total"] > 0
    assert all(
        torch.equal(update.weights[name], same_but_open.weights[name]) for name in update.weights
    )
    assert "kept the means of its losses to itself" in silent.state.events[-1]["what"]
