from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from federation.aggregation.means import Arrived, mean_of_arrived
from federation.aggregation.secure_sum import (
    SecureAggregationConfig,
    SecureSum,
    check_secure_aggregation,
    secure_sum,
)
from federation.methods import METHODS
from federation.methods.bic import BiC
from federation.methods.fedavg import FedAvg
from federation.methods.fedcurv import FedCurv
from federation.methods.fedka import FedKA
from federation.methods.icarl import ICaRL
from federation.server import ServerState
from incremental.head import Weights
from incremental.network import NetworkConfig
from twin.messages import Broadcast, TwinUpdate
from twin.secure_sum.fixed_point import RESOLUTION
from twin.secure_sum.mask_messages import Masked, OpenReply, Sealed
from twin.secure_sum.masking import Masker

pytest.importorskip("cryptography", reason="the keys are those of the extra package cryptography")

CLASSES = ("liver", "heart")
NAMES = ("north", "east", "south", "west", "centre")
GLOBAL = {
    "head.weight": torch.linspace(-1, 1, 600).reshape(2, 300),
    "head.bias": torch.ones(2),
    "batches": torch.tensor(3),
}
CONFIG = SecureAggregationConfig()


def update_of(name: str) -> TwinUpdate:
    number = NAMES.index(name)
    generator = torch.Generator().manual_seed(number)
    weights = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else value + 2 * number
        for key, value in GLOBAL.items()
    }
    return TwinUpdate(
        name, 5, weights, 10 + number, metrics={"total": float(number)}, class_names=CLASSES
    )


def broadcasts(names: tuple[str, ...] = NAMES) -> dict[str, Broadcast]:
    return {name: Broadcast(GLOBAL, CLASSES, 5, 5, seed=1) for name in names}


class SimulatedHospitals:
    """Hospitals that do as the protocol says, and what becomes of their answers on the way."""

    def __init__(
        self,
        names: tuple[str, ...] = NAMES,
        on_the_way: Callable[..., Any] = lambda verb, call, answers: answers,
    ) -> None:
        self.maskers = {name: Masker(name) for name in names}
        self.on_the_way = on_the_way
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.seen: list[Any] = []

    def __call__(self, verb: str, messages: Mapping[str, Any]) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for name, message in messages.items():
            try:
                masker = self.maskers[name]
                answers[name] = (
                    masker.seal(update_of(name), message.weights)
                    if verb == "seal"
                    else getattr(masker, verb)(message)
                )
            except ValueError as refusal:
                answers[name] = refusal
        self.calls.append((verb, tuple(messages)))
        answers = self.on_the_way(
            verb, len([each for each, _ in self.calls if each == verb]), answers
        )
        self.seen += [each for each in answers.values() if not isinstance(each, Exception)]
        return answers


def losing(lost: Any) -> Callable[..., Any]:
    """Loses answers: by verb and the number of the call, from 1, whose."""
    return lambda verb, call, answers: {
        name: each for name, each in answers.items() if name not in lost.get((verb, call), ())
    }


def mean_of(updates: list[TwinUpdate], mean: Any) -> Weights:
    return mean_of_arrived(GLOBAL, CLASSES, [Arrived(each) for each in updates], mean)


def check_is_mean_of(
    result: SecureSum, names: list[str] | tuple[str, ...], mean: Any = "by_images"
) -> None:
    updates = [update_of(name) for name in names]
    expected = mean_of(updates, mean)
    assert result.update is not None
    assert result.members == result.update.summed == tuple(names)
    assert result.update is not None
    assert result.update.twin_id == f"sum of {len(names)}"
    assert result.update is not None
    assert result.update.num_images == sum(each.num_images for each in updates)
    assert result.update is not None
    assert result.update.metrics["total"] == pytest.approx(
        np.mean([each.metrics["total"] for each in updates])
    )
    for key, value in expected.items():
        assert result.update is not None
        assert result.update.weights[key].dtype == value.dtype
        assert result.update is not None
        difference = (result.update.weights[key].double() - value.double()).abs().max()
        assert difference <= len(names) / 2 * RESOLUTION + float(np.spacing(np.float32(2)))


@pytest.mark.parametrize("mean", ["by_images", "equal"])
def test_the_sum_is_the_mean_of_all_hospitals_as_one_update(mean: Any) -> None:
    hospitals = SimulatedHospitals()
    result = secure_sum(broadcasts(), mean, CONFIG, hospitals)
    check_is_mean_of(result, NAMES, mean)
    assert result.restarts == 0 and not result.dropped
    assert [verb for verb, _ in hospitals.calls] == ["seal", "mask", "open"]


def test_the_update_goes_through_the_method_as_if_it_were_all_of_them() -> None:
    server = ServerState(
        GLOBAL, CLASSES, NetworkConfig(backbone="lenet", width=4, image_size=16), 1, round=5
    )
    result = secure_sum(broadcasts(), "by_images", CONFIG, SimulatedHospitals())
    plain = FedAvg().aggregate(server, [update_of(name) for name in NAMES])
    summed = FedAvg().aggregate(server, [result.update])  # type: ignore[list-item]  # wrong on purpose
    assert all(
        torch.allclose(plain.weights[key], summed.weights[key], rtol=0, atol=1e-6) for key in GLOBAL
    )


def test_a_hospital_sends_eight_bytes_for_each_weight_and_two_keys() -> None:
    result = secure_sum(broadcasts(), "by_images", CONFIG, SimulatedHospitals())
    assert result.bytes_up == dict.fromkeys(NAMES, 8 * 603 + 32 + 32)
    assert result.update is not None
    assert result.update.num_bytes == 5 * 8 * 603


def test_the_server_never_sees_a_single_update() -> None:
    hospitals = SimulatedHospitals()
    secure_sum(broadcasts(), "by_images", CONFIG, hospitals)
    vectors = [each.vector.numpy() for each in hospitals.seen if isinstance(each, Masked)]
    assert len(vectors) == 5 and not any(isinstance(each, TwinUpdate) for each in hospitals.seen)
    for vector in vectors:
        counts = np.bincount(vector.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert (
            (counts - expected) ** 2 / expected
        ).sum() < 480  # 255 degrees of freedom: noise exceeds it once in 10^16 tests


@pytest.mark.parametrize("lost", [("east",), ("east", "centre")])
def test_hospitals_that_drop_out_after_sealing_are_left_out_and_the_others_asked_again(
    lost: Any,
) -> None:
    hospitals = SimulatedHospitals(on_the_way=losing({("mask", 1): lost}))
    result = secure_sum(broadcasts(), "by_images", CONFIG, hospitals)
    check_is_mean_of(result, [name for name in NAMES if name not in lost])
    assert result.restarts == 1
    assert [(each.twin_id, each.verb, each.reason) for each in result.dropped] == [
        (name, "mask", "did not answer in time") for name in lost
    ]
    assert result.bytes_up["north"] == 2 * 8 * 603 + 64


def test_two_that_drop_out_one_after_the_other_need_two_restarts() -> None:
    hospitals = SimulatedHospitals(
        on_the_way=losing({("mask", 1): ["east"], ("mask", 2): ["south"]})
    )
    result = secure_sum(broadcasts(), "by_images", CONFIG, hospitals)
    check_is_mean_of(result, ["north", "west", "centre"])
    assert result.restarts == 2


def test_who_does_not_train_is_left_out_without_a_restart() -> None:
    def fail(verb: Any, call: int, answers: dict[str, Any]) -> dict[str, Any]:
        return {**answers, "west": OSError("out of memory")} if verb == "seal" else answers

    result = secure_sum(broadcasts(), "by_images", CONFIG, SimulatedHospitals(on_the_way=fail))
    check_is_mean_of(result, [name for name in NAMES if name != "west"])
    assert result.restarts == 0 and result.dropped[0].reason == "OSError: out of memory"


def test_no_more_restarts_than_allowed() -> None:
    hospitals = SimulatedHospitals(
        on_the_way=losing({("mask", 1): ["east"], ("mask", 2): ["south"]})
    )
    result = secure_sum(
        broadcasts(), "by_images", SecureAggregationConfig(max_restarts=1), hospitals
    )
    assert result.update is None and "max_restarts allows no more" in result.reason
    assert not [verb for verb, _ in hospitals.calls if verb == "open"]


@pytest.mark.parametrize(
    "lost", [{("seal", 1): ["north", "east", "south"]}, {("mask", 1): ["north", "east", "south"]}]
)
def test_below_the_minimum_there_is_no_sum_and_nobody_opens(
    lost: Any,
) -> None:
    hospitals = SimulatedHospitals(on_the_way=losing(lost))
    result = secure_sum(broadcasts(), "by_images", CONFIG, hospitals)
    assert result.update is None and result.members == ()
    assert result.reason == "2 hospitals are left; a sum needs 3"
    assert not [verb for verb, _ in hospitals.calls if verb == "open"]


def test_a_larger_minimum_of_the_server_holds() -> None:
    assert (
        secure_sum(
            broadcasts(NAMES[:4]),
            "by_images",
            SecureAggregationConfig(minimum_hospitals=5),
            SimulatedHospitals(),
        ).update
        is None
    )


def test_a_round_without_broadcasts_has_no_sum() -> None:
    assert (
        secure_sum({}, "by_images", CONFIG, SimulatedHospitals()).reason
        == "nobody was asked to train"
    )


def test_who_drops_out_before_opening_ends_the_round_and_nobody_is_asked_for_another_sum() -> None:
    hospitals = SimulatedHospitals(on_the_way=losing({("open", 1): ["east"]}))
    result = secure_sum(broadcasts(), "by_images", CONFIG, hospitals)
    assert result.update is None and "before it opened its mask" in result.reason
    assert [verb for verb, _ in hospitals.calls] == ["seal", "mask", "open"]
    assert result.only == tuple(sorted(NAMES))


def test_a_round_that_is_repeated_has_the_sum_of_the_same_hospitals() -> None:
    hospitals = SimulatedHospitals(on_the_way=losing({("open", 1): ["east"]}))
    assert secure_sum(broadcasts(), "by_images", CONFIG, hospitals).update is None
    check_is_mean_of(secure_sum(broadcasts(), "by_images", CONFIG, hospitals), NAMES)


def test_a_hospital_that_comes_back_for_a_repeated_round_stays_out_of_it() -> None:
    hospitals = SimulatedHospitals(
        on_the_way=losing({("mask", 1): ["west"], ("open", 1): ["east"]})
    )
    assert secure_sum(broadcasts(), "by_images", CONFIG, hospitals).update is None
    again = secure_sum(broadcasts(), "by_images", CONFIG, hospitals)
    check_is_mean_of(again, [name for name in NAMES if name != "west"])
    assert [(each.twin_id, each.reason) for each in again.dropped] == [
        ("west", "this round was opened for others before it was repeated")
    ]


@pytest.mark.parametrize("stage", ["seal", "mask"])
def test_a_repeated_round_without_one_of_them_has_no_sum_and_says_whose_it_could_have(
    stage: Any,
) -> None:
    hospitals = SimulatedHospitals(
        on_the_way=losing({("open", 1): ["east"], (stage, 2): ["south"]})
    )
    secure_sum(broadcasts(), "by_images", CONFIG, hospitals)
    again = secure_sum(broadcasts(), "by_images", CONFIG, hospitals)
    assert again.update is None and again.only == tuple(sorted(NAMES))
    assert [verb for verb, _ in hospitals.calls].count("open") == 1


def test_half_of_the_hospitals_cannot_choose_by_a_lie_who_is_summed() -> None:
    def lie(verb: Any, call: int, answers: dict[str, Any]) -> dict[str, Any]:
        lying = (
            {
                name: replace(answers[name], opened_for=("centre", "east", "west"))
                for name in ("east", "west")
            }
            if verb == "seal"
            else {}
        )
        return {**answers, **lying}

    check_is_mean_of(
        secure_sum(broadcasts(), "by_images", CONFIG, SimulatedHospitals(on_the_way=lie)), NAMES
    )


def test_a_vector_that_comes_late_is_an_answer_to_another_roster_and_is_left_out() -> None:
    late = {}

    def delay(verb: Any, call: int, answers: dict[str, Any]) -> dict[str, Any]:
        if verb == "mask" and call == 1:
            late["south"] = answers.pop("south")
            answers.pop("east")
        if verb == "mask" and call == 2:
            answers["west"] = replace(late["south"], twin_id="west")
        return answers

    result = secure_sum(
        broadcasts((*NAMES,)), "by_images", CONFIG, SimulatedHospitals(on_the_way=delay)
    )
    assert ("west", "answered for another roster") in [
        (each.twin_id, each.reason) for each in result.dropped
    ]
    assert result.update is None


class Odd:
    """No answer of this protocol."""


WRONG_ANSWERS = {
    "seal": {
        "another twin's": lambda answer: replace(answer, twin_id="north"),
        "an old round's": lambda answer: replace(answer, round=4),
        "for other classes": lambda answer: replace(answer, class_names=("liver",)),
        "without images": lambda answer: replace(answer, num_images=0),
        "with more images than anyone has": lambda answer: replace(answer, num_images=10**9),
        "with a loss that is no number": lambda answer: replace(
            answer, metrics={"total": float("nan")}
        ),
        "with a weak key": lambda answer: replace(answer, public_key=bytes(32)),
        "with a short key": lambda answer: replace(answer, public_key=b"x"),
        "an update in the open": lambda answer: update_of("east"),
        "something odd": lambda answer: Odd(),
        "of another step": lambda answer: OpenReply("east", 5, "", bytes(32)),
    },
    "mask": {
        "for another roster": lambda answer: replace(answer, roster_digest="0" * 64),
        "too short": lambda answer: replace(answer, vector=answer.vector[:-1]),
        "of floats": lambda answer: replace(answer, vector=answer.vector.double()),
        "of another step": lambda answer: OpenReply("east", 5, "", bytes(32)),
    },
}


@pytest.mark.parametrize(
    ("verb", "what"), [(verb, what) for verb, kinds in WRONG_ANSWERS.items() for what in kinds]
)
def test_an_answer_that_is_no_answer_leaves_its_hospital_out(verb: Any, what: str) -> None:
    def spoil(asked: str, call: int, answers: dict[str, Any]) -> dict[str, Any]:
        return (
            {**answers, "east": WRONG_ANSWERS[verb][what](answers["east"])}
            if (asked, call) == (verb, 1)
            else answers
        )

    result = secure_sum(broadcasts(), "by_images", CONFIG, SimulatedHospitals(on_the_way=spoil))
    check_is_mean_of(result, [name for name in NAMES if name != "east"])
    assert [(each.twin_id, each.verb) for each in result.dropped] == [("east", verb)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: replace(answer, seed=b"x"),
        lambda answer: replace(answer, roster_digest="0"),
        lambda answer: Odd(),
    ],
)
def test_a_wrong_opening_ends_the_round(spoil: Callable[..., Any]) -> None:
    def wrong(verb: Any, call: int, answers: dict[str, Any]) -> dict[str, Any]:
        return {**answers, "east": spoil(answers["east"])} if verb == "open" else answers

    assert (
        secure_sum(broadcasts(), "by_images", CONFIG, SimulatedHospitals(on_the_way=wrong)).update
        is None
    )


def test_two_hospitals_with_one_key_are_both_left_out() -> None:
    def copy(verb: Any, call: int, answers: dict[str, Any]) -> dict[str, Any]:
        return (
            {**answers, "east": replace(answers["east"], public_key=answers["west"].public_key)}
            if verb == "seal"
            else answers
        )

    result = secure_sum(broadcasts(), "by_images", CONFIG, SimulatedHospitals(on_the_way=copy))
    check_is_mean_of(result, ["north", "south", "centre"])
    assert {each.reason for each in result.dropped} == {"sent the same key as another hospital"}


def test_a_replayed_seal_makes_its_own_hospital_refuse_and_the_others_are_summed() -> None:
    before = SimulatedHospitals()
    secure_sum(broadcasts(), "by_images", CONFIG, before)
    old = next(each for each in before.seen if isinstance(each, Sealed) and each.twin_id == "east")

    def replay(verb: Any, call: int, answers: dict[str, Any]) -> dict[str, Any]:
        return {**answers, "east": old} if verb == "seal" else answers

    result = secure_sum(broadcasts(), "by_images", CONFIG, SimulatedHospitals(on_the_way=replay))
    check_is_mean_of(result, [name for name in NAMES if name != "east"])
    assert "not what east sealed" in result.dropped[0].reason


def test_the_same_hospitals_give_the_same_bits_whatever_the_keys() -> None:
    first, second = (
        cast(
            Any, secure_sum(broadcasts(), "by_images", CONFIG, SimulatedHospitals()).update
        ).weights
        for _ in range(2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "wrong", [{"minimum_hospitals": 2}, {"max_restarts": -1}, {"max_images": 0}, {"threshold": 1}]
)
def test_a_configuration_that_protects_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SecureAggregationConfig(**wrong)


SUMMED = {"fedavg", "fedprox", "fedntd", "flwf2t", "lwm", "podnet"}
WITHOUT_UPLOADS = [
    FedKA(reconstruction=None),
    BiC(held_out_fraction=0.0),
    ICaRL(sends_class_means=False),
    FedCurv(curvature_weight=0.0),
]


def test_which_methods_are_sums_of_weights_and_nothing_more() -> None:
    assert {name for name, kind in METHODS.items() if kind().sums} == SUMMED
    assert all(
        method.sums == method.mean
        for method in (*(METHODS[name]() for name in SUMMED), *WITHOUT_UPLOADS)
    )
    assert not any(METHODS[name].uploads for name in SUMMED)


@pytest.mark.parametrize(
    "method",
    [*(METHODS[name]() for name in sorted(SUMMED)), *WITHOUT_UPLOADS],
    ids=lambda method: type(method).__name__,
)
@pytest.mark.parametrize("mean", ["by_images", "equal"])
def test_a_method_that_is_a_sum_gives_the_same_server_for_the_sum_as_for_all(
    method: Any, mean: Any
) -> None:
    method = replace(method, mean=mean)
    assert method.sums == mean
    server = ServerState(
        GLOBAL, CLASSES, NetworkConfig(backbone="lenet", width=4, image_size=16), 1, round=5
    )
    updates = [update_of(name) for name in NAMES]
    together = TwinUpdate(
        "sum of 5",
        5,
        mean_of(updates, mean),
        sum(each.num_images for each in updates),
        class_names=CLASSES,
    )
    plain, summed = method.aggregate(server, updates), method.aggregate(server, [together])
    assert all(torch.equal(plain.weights[key], summed.weights[key]) for key in GLOBAL)
    assert plain.kept.keys() == summed.kept.keys()
    assert all(torch.equal(plain.kept[key], summed.kept[key]) for key in plain.kept)


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        (FedKA(), {}, "method FedKA, as it is set, reads single updates .*reconstruction: null"),
        (METHODS["scaffold"](), {}, "method SCAFFOLD, as it is set, reads single updates"),
        (FedAvg(), {"robust": True}, "a robust mean is configured"),
        (FedAvg(), {"compressed": True}, "updates are compressed"),
        (
            FedAvg(),
            {"twins_per_round": 2},
            "federation.twins_per_round is 2; allowed: minimum_hospitals, 3, or more",
        ),
    ],
)
def test_what_cannot_be_summed_in_secret_is_refused(
    method: Any, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_secure_aggregation(CONFIG, method, **{"twins_per_round": 5, **more})


def test_what_can_be_summed_says_how_twins_count() -> None:
    assert check_secure_aggregation(CONFIG, FedAvg(), 5) == "by_images"
    assert check_secure_aggregation(CONFIG, FedKA(reconstruction=None), 3) == "equal"
