import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pydantic
import pytest
import torch

from federation.aggregation.screening import Rejection, ScreeningConfig, screen
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.head import Weights
from incremental.network import NetworkConfig
from twin.messages import Observation, TwinUpdate

CONFIG = ScreeningConfig()
DECLARED = ("drift", "shape", "head.bias", "fisher")


@pytest.fixture
def server(tiny_network: NetworkConfig) -> ServerState:
    return grow_for_new_classes(
        new_server(tiny_network, 1, settle_rounds=0),
        [Observation("north", 0, 1, True, ("liver", "lung"))],
    )[0]


def update_of(server: ServerState, **changes: torch.Tensor) -> TwinUpdate:
    weights = {name: value.clone() for name, value in server.weights.items()}
    return TwinUpdate(
        "north", server.round, weights | changes, num_images=5, class_names=server.class_names
    )


def reason(update: TwinUpdate, server: ServerState, config: ScreeningConfig = CONFIG) -> str:
    accepted, rejected = screen([update], server, ["north", "south"], DECLARED, config)
    assert len(accepted) + len(rejected) == 1
    return cast(Any, rejected[0].reason if rejected else None)


def test_an_honest_update_is_accepted(server: ServerState) -> None:
    assert (
        reason(update_of(server, **{"head.bias": server.weights["head.bias"] + 0.1}), server)
        is None
    )


def test_a_bad_update_does_not_touch_the_others(server: ServerState) -> None:
    good = replace(update_of(server), twin_id="south")
    bad = update_of(server, **{"head.bias": torch.full((2,), torch.nan)})
    accepted, rejected = screen([bad, good], server, ["north", "south"], DECLARED, CONFIG)
    assert accepted == (good,)
    assert [each.twin_id for each in rejected] == ["north"]


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("head.bias"), "other tensors than the global model: head.bias"),
        (
            lambda weights: weights | {"images": torch.zeros(1)},
            "other tensors than the global model: images",
        ),
        (
            lambda weights: weights | {"head.bias": torch.zeros(3)},
            r"head.bias is torch.float32 \(3,\)",
        ),
        (
            lambda weights: weights | {"head.bias": torch.zeros(2, dtype=torch.float64)},
            "head.bias is torch.float64",
        ),
        (
            lambda weights: weights | {"head.bias": torch.tensor([0.0, torch.inf])},
            "head.bias holds values that are not finite",
        ),
        (
            lambda weights: weights | {"backbone.first.1.running_var": torch.full((4,), torch.nan)},
            "not finite",
        ),
        (
            lambda weights: weights | {"head.bias": torch.full((2,), 1e6)},
            "times the global norm; allowed: 10",
        ),
        (
            lambda weights: weights | {"head.bias": torch.full((2,), 3e38)},
            "times the global norm; allowed: 10",
        ),
    ],
)
def test_weights_that_do_not_fit_are_turned_away_with_the_reason(
    server: ServerState, change: Callable[[Weights], Weights], message: str
) -> None:
    update = update_of(server)
    found = reason(replace(update, weights=change(update.weights)), server)
    assert found is not None
    assert re.search(message, found), found


def test_an_update_of_another_round_is_turned_away(server: ServerState) -> None:
    found = reason(replace(update_of(server), round=3), server)
    assert found == "belongs to round 3; this is round 0"


@pytest.mark.parametrize("count", [0, -4, 1_000_001, 10**30])
def test_a_number_of_images_that_cannot_be_is_turned_away(server: ServerState, count: int) -> None:
    found = reason(replace(update_of(server), num_images=count), server)
    assert found == f"claims to be trained on {count} images; allowed: 1 to 1000000"


def test_the_most_images_can_be_set(server: ServerState) -> None:
    update = update_of(server)
    assert reason(update, server, ScreeningConfig(max_images=5)) is None
    assert (
        reason(update, server, ScreeningConfig(max_images=4))
        == "claims to be trained on 5 images; allowed: 1 to 4"
    )


@pytest.mark.parametrize(
    "names", [("lung", "liver"), ("liver",), ("liver", "lung", "heart"), ("liver", "Lung"), ()]
)
def test_an_update_for_another_class_list_is_turned_away(
    server: ServerState, names: tuple[str, ...]
) -> None:
    found = reason(replace(update_of(server), class_names=names), server)
    assert (
        found
        == f"takes the rows of the head for {', '.join(names)}; the global model's are liver, lung"
    )


def test_a_twin_that_was_not_asked_is_turned_away(server: ServerState) -> None:
    good, stranger = update_of(server), replace(update_of(server), twin_id="elsewhere")
    accepted, rejected = screen([stranger, good], server, ["north", "south"], DECLARED, CONFIG)
    assert accepted == (good,)
    assert rejected == (Rejection("elsewhere", "was not asked to train"),)


def test_the_first_answer_of_a_twin_counts_even_if_it_was_bad(server: ServerState) -> None:
    good, late = update_of(server), replace(update_of(server), round=-1)
    accepted, rejected = screen([good, late, good], server, ["north"], DECLARED, CONFIG)
    assert accepted == (good,)
    assert {each.reason for each in rejected} == {"answers a second time; its first answer counts"}
    accepted, rejected = screen([late, good], server, ["north"], DECLARED, CONFIG)
    assert not accepted
    assert [each.reason for each in rejected] == [
        "belongs to round -1; this is round 0",
        "answers a second time; its first answer counts",
    ]


def test_an_upload_that_the_method_does_not_declare_is_turned_away(server: ServerState) -> None:
    update = update_of(server)
    assert reason(replace(update, upload={"fisher/head.bias": torch.zeros(2)}), server) is None
    assert (
        reason(replace(update, upload={"images": torch.zeros(1)}), server)
        == "uploads what the method does not declare: images"
    )
    huge = torch.zeros(1).expand(2**29)  # 2 GiB of which one value exists
    assert (
        reason(replace(update, upload={"huge": huge}), server)
        == "uploads what the method does not declare: huge"
    )


def test_an_upload_that_is_large_for_the_model_is_turned_away(server: ServerState) -> None:
    huge = replace(update_of(server), upload={"drift": torch.zeros(1).expand(2**29)})
    assert (
        reason(huge, server)
        == "uploads 2147.5 MB besides weights; allowed: 16.8 MB, see max_relative_upload"
    )
    assert (
        reason(replace(update_of(server), upload={"drift": torch.zeros(2**22)}), server) is None
    )  # 16 MiB
    assert (
        reason(replace(update_of(server), upload={"drift": torch.zeros(2**22 + 1)}), server)
        is not None
    )
    most = (
        (2**22 + 1)
        * 4
        / sum(value.numel() * value.element_size() for value in server.weights.values())
    )
    generous = ScreeningConfig(max_relative_upload=1.01 * most)
    assert (
        reason(
            replace(update_of(server), upload={"drift": torch.zeros(2**22 + 1)}), server, generous
        )
        is None
    )


def test_a_huge_tensor_in_place_of_a_weight_is_turned_away_unread(server: ServerState) -> None:
    found = reason(update_of(server, **{"head.bias": torch.zeros(1).expand(2**40)}), server)
    assert (
        found
        == "head.bias is torch.float32 (1099511627776,); the global model's is torch.float32 (2,)"
    )


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.full((2,), torch.nan + 0j),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.zeros(2).to(torch.float8_e5m2),
    ],
    ids=["complex", "complex nan", "sparse", "meta", "float8"],
)
def test_an_upload_that_is_no_plain_numbers_is_turned_away(
    server: ServerState, value: torch.Tensor
) -> None:
    found = reason(replace(update_of(server), upload={"drift": value}), server)
    assert (
        found is not None
        and found.startswith("upload drift is torch.")
        and found.endswith("allowed: plain numbers")
    )


def test_weights_without_numbers_behind_them_are_turned_away(server: ServerState) -> None:
    for value in (torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()):
        found = reason(update_of(server, **{"head.bias": value}), server)
        assert found is not None and found.startswith("head.bias is torch.float32 (2,) (torch.")


def test_a_negative_variance_or_count_is_turned_away(server: ServerState) -> None:
    found = reason(
        update_of(server, **{"backbone.first.1.running_var": torch.tensor([1.0, 1.0, -1e-3, 1.0])}),
        server,
    )
    assert found == "backbone.first.1.running_var holds a variance below 0"
    for count in (-1, 2**53 + 1, 2**63 - 1):
        found = reason(
            update_of(server, **{"backbone.first.1.num_batches_tracked": torch.tensor(count)}),
            server,
        )
        assert found == "backbone.first.1.num_batches_tracked holds what is no count"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_turned_away(server: ServerState, value: float) -> None:
    assert reason(replace(update_of(server), metrics={"total": 1.0}), server) is None
    found = reason(
        replace(update_of(server), metrics={"total": 1.0, "classification": value}), server
    )
    assert (
        found == "reports 2 metrics, of which not finite: classification; allowed: 64, all finite"
    )
    found = reason(
        replace(update_of(server), metrics={f"m{index}": 0.0 for index in range(65)}), server
    )
    assert found == "reports 65 metrics, of which not finite: none; allowed: 64, all finite"


def test_names_from_outside_are_shortened_and_cannot_forge_a_line_of_a_log(
    server: ServerState,
) -> None:
    names = ("liver\n2026-11-22 all is well", "x" * 10_000, "\u202egnul", "heart", "spleen")
    found = reason(replace(update_of(server), class_names=names), server)
    assert found is not None and found.isprintable() and len(found) < 300 and "and 2 more" in found


def test_values_whose_squares_overflow_are_turned_away(server: ServerState) -> None:
    wide = replace(
        server,
        weights={
            name: value.double() if value.is_floating_point() else value
            for name, value in server.weights.items()
        },
    )
    found = reason(
        update_of(wide, **{"head.bias": torch.full((2,), 1e300, dtype=torch.float64)}), wide
    )
    assert found == "changed by inf times the global norm; allowed: 10"


def test_an_upload_that_is_not_finite_is_turned_away(server: ServerState) -> None:
    found = reason(replace(update_of(server), upload={"drift": torch.tensor([torch.nan])}), server)
    assert found == "drift holds values that are not finite"
    assert (
        reason(replace(update_of(server), upload={"shape": torch.tensor([3, 16, 16])}), server)
        is None
    )


def test_an_upload_cannot_hide_weights_that_are_not_finite(server: ServerState) -> None:
    update = replace(
        update_of(server, **{"head.bias": torch.full((2,), torch.nan)}),
        upload={"head.bias": torch.zeros(2)},
    )
    assert reason(update, server) == "head.bias holds values that are not finite"


def test_statistics_of_batch_normalisation_may_follow_the_data(server: ServerState) -> None:
    update = update_of(server, **{"backbone.first.1.running_mean": torch.full((4,), 1e6)})
    assert reason(update, server) is None


def test_the_limit_is_a_multiple_of_the_global_norm(server: ServerState) -> None:
    parameters = {
        name: value
        for name, value in server.weights.items()
        if value.is_floating_point() and "running_" not in name
    }
    grown = update_of(
        server, **{name: 4.0 * value for name, value in parameters.items()}
    )  # changed by 3 times its norm
    assert reason(grown, server, ScreeningConfig(max_relative_change=3.01)) is None
    assert (
        reason(grown, server, ScreeningConfig(max_relative_change=2.99))
        == "changed by 3.0 times the global norm; allowed: 2.99"
    )


def test_an_all_zero_global_model_does_not_stop_the_round(server: ServerState) -> None:
    zero = replace(
        server, weights={name: torch.zeros_like(value) for name, value in server.weights.items()}
    )
    assert reason(update_of(server), zero) is not None


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_turns_everybody_away_is_refused(limit: float) -> None:
    for name in ("max_relative_change", "max_relative_upload"):
        with pytest.raises(pydantic.ValidationError, match=f"{name} is .*allowed: above 0"):
            ScreeningConfig(**cast(Any, {name: limit}))
    with pytest.raises(pydantic.ValidationError, match="max_images is 0; allowed: 1 or more"):
        ScreeningConfig(max_images=0)
