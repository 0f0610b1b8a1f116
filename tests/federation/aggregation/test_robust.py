import re
from dataclasses import replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from federation.aggregation.means import weighted_mean
from federation.aggregation.robust import RobustConfig, clipped, defend, krum_scores, trimmed_mean
from federation.aggregation.screening import parameter_norm
from federation.experiment.config import load_experiment
from federation.experiment.config_file import ConfigError
from federation.methods import METHODS
from federation.round import RoundConfig
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.head import Weights
from incremental.network import NetworkConfig
from incremental.weight_tensors import parameters_of
from twin.messages import Observation, TwinUpdate
from twin.privacy.upload_policy import UploadKinds

NO_UPLOADS = UploadKinds()
UPLOADS = UploadKinds(
    {
        "sums": ("feature_statistics",),
        "fisher": ("fisher_information",),
        "prototype_gradients": ("prototype_gradients",),
    }
)
MEDIAN, TRIMMED, KRUM = RobustConfig("median"), RobustConfig("trimmed_mean"), RobustConfig("krum")
PHANTOM = Path(__file__).parents[3] / "hospital_configs" / "phantom_tiny"


@pytest.fixture
def server(tiny_network: NetworkConfig) -> ServerState:
    return grow_for_new_classes(
        new_server(tiny_network, 1, settle_rounds=0),
        [Observation("north", 0, 1, True, ("liver", "lung"))],
    )[0]


def honest(server: ServerState, count: int, seed: int = 0) -> list[TwinUpdate]:
    """Updates about 0.1 around the global model, each of another number of images."""
    generator = torch.Generator().manual_seed(seed)

    def moved(value: torch.Tensor, index: int) -> torch.Tensor:
        if not value.is_floating_point():
            return value + index + 3
        return value + 0.1 * torch.rand(value.shape, generator=generator)

    return [
        TwinUpdate(
            f"t{index}",
            0,
            {name: moved(value, index) for name, value in server.weights.items()},
            10 + index,
            class_names=server.class_names,
        )
        for index in range(count)
    ]


def with_weights(update: TwinUpdate, **weights: torch.Tensor) -> TwinUpdate:
    return replace(update, weights=update.weights | weights)


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


# What the rules compute, against slow loops written from the papers' definitions


def slow_trimmed_mean(values: list[list[float]], trim: int) -> list[float]:
    """Yin et al. 2018, definition 2: each coordinate's mean without beta n values at each end."""
    centre = []
    for coordinate in zip(*values, strict=True):
        left = sorted(coordinate)
        for _ in range(trim):
            left.remove(min(left))
            left.remove(max(left))
        centre.append(sum(left) / len(left))
    return centre


def slow_krum(vectors: list[list[float]], num_byzantine: int) -> list[float]:
    """Blanchard et al. 2017, section 4: sum of |V_i - V_j|^2 over the n - f - 2 nearest V_j."""
    scores = []
    for i, own in enumerate(vectors):
        squares = []
        for j, other in enumerate(vectors):
            if i != j:
                squares.append(sum((a - b) ** 2 for a, b in zip(own, other, strict=True)))
        scores.append(sum(sorted(squares)[: len(vectors) - num_byzantine - 2]))
    return scores


finite = st.floats(-1e6, 1e6, width=32)


@given(st.data(), st.integers(1, 9), st.integers(1, 4))
def test_the_trimmed_mean_is_that_of_the_definition(
    data: st.DataObject, count: int, size: int
) -> None:
    values = data.draw(
        st.lists(st.lists(finite, min_size=size, max_size=size), min_size=count, max_size=count)
    )
    trim = data.draw(st.integers(0, (count - 1) // 2))
    found = trimmed_mean([torch.tensor(each) for each in values], trim)
    torch.testing.assert_close(
        found, torch.tensor(slow_trimmed_mean(values, trim)), rtol=1e-6, atol=1e-6
    )


@given(st.data(), st.integers(1, 9), st.integers(1, 4))
def test_the_median_is_that_of_each_coordinate(data: st.DataObject, count: int, size: int) -> None:
    values = data.draw(
        st.lists(st.lists(finite, min_size=size, max_size=size), min_size=count, max_size=count)
    )
    found = trimmed_mean([torch.tensor(each) for each in values], MEDIAN.trimmed(count))
    expected = torch.tensor([median(coordinate) for coordinate in zip(*values, strict=True)])
    assert torch.equal(found, expected) if count % 2 else torch.allclose(found, expected, rtol=1e-6)


@given(st.data(), st.integers(0, 2), st.integers(0, 3))
def test_krum_scores_are_those_of_the_definition(
    data: st.DataObject, num_byzantine: int, more: int
) -> None:
    count = 2 * num_byzantine + 3 + more
    small = st.floats(-100, 100, width=32)
    vectors = data.draw(
        st.lists(st.lists(small, min_size=5, max_size=5), min_size=count, max_size=count)
    )
    weights = [
        {"matrix": torch.tensor(each[:4]).view(2, 2), "bias": torch.tensor(each[4:])}
        for each in vectors
    ]
    assert krum_scores(weights, num_byzantine) == pytest.approx(
        slow_krum(vectors, num_byzantine), rel=1e-9, abs=1e-9
    )


def test_multi_krum_chooses_the_lowest_scores_and_of_equal_ones_the_first(
    server: ServerState,
) -> None:
    updates = honest(server, 7)
    scores = slow_krum(
        [
            torch.cat([value.flatten() for value in parameters_of(each.weights).values()]).tolist()
            for each in updates
        ],
        1,
    )
    lowest = sorted(range(7), key=scores.__getitem__)
    for num in (1, 3, None):
        chosen, _ = defend(updates, server, NO_UPLOADS, RobustConfig("krum", num_selected=num))
        assert [each.twin_id for each in chosen] == [
            f"t{index}" for index in sorted(lowest[: num or 4])
        ]
    alike = [replace(updates[0], twin_id=each.twin_id) for each in updates]
    chosen, _ = defend(alike, server, NO_UPLOADS, RobustConfig("krum", num_selected=2))
    assert [each.twin_id for each in chosen] == ["t0", "t1"]


def test_krum_cannot_be_asked_for_more_than_it_vouches_for_in_a_small_round(
    server: ServerState,
) -> None:
    chosen, rejected = defend(
        honest(server, 5), server, NO_UPLOADS, RobustConfig("krum", num_selected=4)
    )
    assert len(chosen) == 2 and len(rejected) == 3


def test_an_update_that_krum_leaves_out_is_rejected_with_the_reason(server: ServerState) -> None:
    updates = honest(server, 5)
    updates[2] = with_weights(updates[2], **{"head.bias": torch.full((2,), 5.0)})
    chosen, rejected = defend(updates, server, NO_UPLOADS, KRUM)
    reasons = {each.twin_id: each.reason for each in rejected}
    assert len(chosen) == 2 and "t2" in reasons
    assert re.fullmatch(
        r"krum: too far from the others, score [\d.]+; chosen are 2 of up to [\d.]+", reasons["t2"]
    )


# What a rule does to the updates


@pytest.mark.parametrize("count", [0, 1, 5])
def test_off_gives_the_very_updates(server: ServerState, count: int) -> None:
    updates = honest(server, count)
    defended, rejected = defend(updates, server, UPLOADS, RobustConfig())
    assert not rejected and len(defended) == count
    assert all(one is other for one, other in zip(defended, updates, strict=True))


@pytest.mark.parametrize("config", [MEDIAN, TRIMMED])
@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_any_mean_of_the_defended_updates_is_the_centre_bit_for_bit(
    server: ServerState, config: RobustConfig, count: int
) -> None:
    updates = honest(server, count)
    defended, rejected = defend(updates, server, NO_UPLOADS, config)
    assert not rejected and [each.twin_id for each in defended] == [
        each.twin_id for each in updates
    ]
    trim = (count - 1) // 2 if config is MEDIAN else ceil(0.2 * count)
    centre = {
        name: trimmed_mean([each.weights[name] for each in updates], trim)
        for name in server.weights
    }
    for shares in (
        [each.num_images for each in defended],
        [1] * count,
        [1_000_000] + [1] * (count - 1),
    ):
        assert same(weighted_mean([each.weights for each in defended], shares), centre)


@pytest.mark.parametrize("config", [MEDIAN, TRIMMED, KRUM])
def test_counters_stay_integers_and_statistics_are_defended_under_every_rule(
    server: ServerState, config: RobustConfig
) -> None:
    updates = honest(server, 5)
    wild = {
        name: torch.full_like(value, 1e30)
        for name, value in server.weights.items()
        if "running_" in name
    }
    wild |= {
        name: torch.tensor(2**53) for name in server.weights if name.endswith("num_batches_tracked")
    }
    assert len(wild) > 4
    # The hostile twin's parameters are in the middle of the others', so that Krum chooses it.
    middle = parameters_of(
        {name: trimmed_mean([each.weights[name] for each in updates], 2) for name in server.weights}
    )
    updates[0] = with_weights(updates[0], **middle, **wild)
    defended, _ = defend(updates, server, NO_UPLOADS, config)
    assert "t0" in {each.twin_id for each in defended}
    for each in defended:
        for name in wild:
            others = torch.stack([update.weights[name] for update in updates[1:]])
            assert each.weights[name].dtype == server.weights[name].dtype
            assert bool(
                (
                    (each.weights[name] >= others.amin(0)) & (each.weights[name] <= others.amax(0))
                ).all()
            ), name


def test_krum_leaves_the_parameters_of_those_chosen_as_they_are(server: ServerState) -> None:
    updates = honest(server, 5)
    for each in defend(updates, server, NO_UPLOADS, KRUM)[0]:
        own = next(update for update in updates if update.twin_id == each.twin_id)
        assert (
            same(parameters_of(each.weights), parameters_of(own.weights))
            and each.num_images == own.num_images
        )


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
@pytest.mark.parametrize("num_byzantine", [1, 2, 3])
def test_no_hostile_minority_moves_the_centre_out_of_the_honest_range(
    server: ServerState, rule: Any, num_byzantine: int
) -> None:
    good = honest(server, num_byzantine + 1)
    bad = [
        replace(each, weights={name: value * 0 + 2**20 for name, value in each.weights.items()})
        for each in good[:-1]
    ]
    for hostile in (
        bad,
        [
            replace(each, weights={name: -value for name, value in each.weights.items()})
            for each in bad
        ],
    ):
        (first, *_), _ = defend(
            [*hostile, *good],
            server,
            NO_UPLOADS,
            RobustConfig(rule, num_byzantine=num_byzantine, trim_share=0.0),
        )
        for name, value in first.weights.items():
            honest_values = torch.stack([each.weights[name] for each in good])
            assert bool(
                ((value >= honest_values.amin(0)) & (value <= honest_values.amax(0))).all()
            ), name


def test_krum_with_a_hostile_minority_that_agrees_chooses_honest_updates_alone(
    server: ServerState,
) -> None:
    good = honest(server, 5)
    bad = [
        replace(
            good[0],
            twin_id=f"bad{index}",
            weights={n: v * 0 + 7 for n, v in good[0].weights.items()},
        )
        for index in range(2)
    ]
    chosen, rejected = defend(
        [*bad, *good], server, NO_UPLOADS, RobustConfig("krum", num_byzantine=2)
    )
    assert len(chosen) == 3 and not {"bad0", "bad1"} & {each.twin_id for each in chosen}
    assert {"bad0", "bad1"} <= {each.twin_id for each in rejected}


def test_trimming_leaves_out_a_share_but_never_fewer_than_the_hostile_and_never_all() -> None:
    def trims(**settings: Any) -> list[int]:
        return [
            RobustConfig("trimmed_mean", **settings).trimmed(count)
            for count in (1, 2, 3, 5, 10, 30)
        ]

    assert trims(trim_share=0.1) == [0, 0, 1, 1, 1, 3]
    assert trims(trim_share=0.1, num_byzantine=0) == [0, 0, 1, 1, 1, 3]
    assert trims(trim_share=0.0, num_byzantine=0) == [0] * 6
    assert trims(trim_share=0.49, num_byzantine=0) == [0, 0, 1, 2, 4, 14]
    assert trims(trim_share=0.0, num_byzantine=4) == [0, 0, 1, 2, 4, 4]


# Norm clipping


def test_a_change_is_shortened_to_the_limit_and_keeps_its_direction(server: ServerState) -> None:
    update = honest(server, 1)[0]
    length = parameter_norm(update.weights, server.weights)
    short = clipped(update, server, length / 4)
    assert parameter_norm(short.weights, server.weights) == pytest.approx(length / 4, rel=1e-6)
    for name, value in parameters_of(server.weights).items():
        torch.testing.assert_close(
            short.weights[name] - value, (update.weights[name] - value) / 4, rtol=1e-4, atol=1e-6
        )
    for name in set(server.weights) - set(parameters_of(server.weights)):
        assert short.weights[name] is update.weights[name]


def test_a_change_within_the_limit_is_not_touched(server: ServerState) -> None:
    update = honest(server, 1)[0]
    assert clipped(update, server, parameter_norm(update.weights, server.weights)) is update


def test_clipping_goes_with_every_rule(server: ServerState) -> None:
    updates = honest(server, 5)
    updates[0] = with_weights(updates[0], **{"head.bias": torch.full((2,), 1e6)})
    for rule in ("mean", "median", "trimmed_mean", "krum"):
        defended, _ = defend(updates, server, NO_UPLOADS, RobustConfig(rule, clip_norm=0.01))
        assert all(parameter_norm(each.weights, server.weights) <= 0.01 + 1e-6 for each in defended)
    assert len(defend(updates[:1], server, NO_UPLOADS, RobustConfig(clip_norm=0.01))[0]) == 1


# Uploads


def with_upload(updates: list[TwinUpdate], *uploads: dict[str, torch.Tensor]) -> list[TwinUpdate]:
    return [replace(each, upload=upload) for each, upload in zip(updates, uploads, strict=True)]


@pytest.mark.parametrize("config", [MEDIAN, TRIMMED, KRUM])
def test_an_averaged_upload_is_replaced_by_its_centre(
    server: ServerState, config: RobustConfig
) -> None:
    values = [1.0, 2.0, 3.0, 4.0, 1e30]
    updates = with_upload(
        honest(server, 5),
        *(
            {"fisher/head.bias": torch.full((2,), value), "sums": torch.tensor(7)}
            for value in values
        ),
    )
    defended, _ = defend(updates, server, UPLOADS, config)
    for each in defended:
        assert torch.equal(each.upload["fisher/head.bias"], torch.full((2,), 3.0))
        assert (
            torch.equal(each.upload["sums"], torch.tensor(7))
            and each.upload["sums"].dtype == torch.int64
        )


def test_prototypes_are_each_twins_own_and_stay(server: ServerState) -> None:
    updates = with_upload(
        honest(server, 5),
        *({"prototype_gradients": torch.full((2, 3), float(index))} for index in range(5)),
    )
    defended, _ = defend(updates, server, UPLOADS, MEDIAN)
    assert [each.upload["prototype_gradients"][0, 0].item() for each in defended] == [0, 1, 2, 3, 4]


def test_an_upload_of_another_shape_than_most_is_left_out(server: ServerState) -> None:
    sent = [
        torch.zeros(2),
        torch.ones(2),
        torch.ones(3),
        torch.ones(2, dtype=torch.float64),
        torch.full((2,), 2.0),
    ]
    defended, _ = defend(
        with_upload(honest(server, 5), *({"sums": value} for value in sent)),
        server,
        UPLOADS,
        MEDIAN,
    )
    assert [each.upload.get("sums", torch.empty(0)).tolist() for each in defended] == [
        [1, 1],
        [1, 1],
        [],
        [],
        [1, 1],
    ]


def test_an_upload_that_too_few_sent_to_outvote_a_hostile_one_is_left_out(
    server: ServerState,
) -> None:
    value = {"sums": torch.ones(2)}
    updates = honest(server, 5)
    alone, _ = defend(with_upload(updates, value, {}, {}, {}, {}), server, UPLOADS, MEDIAN)
    assert all(not each.upload for each in alone)
    three, _ = defend(
        with_upload(updates, value, value, {}, {}, {"sums": torch.full((2,), 1e9)}),
        server,
        UPLOADS,
        MEDIAN,
    )
    assert [each.upload.get("sums", torch.empty(0)).tolist() for each in three] == [
        [1, 1],
        [1, 1],
        [],
        [],
        [1, 1],
    ]


# Too few updates


@pytest.mark.parametrize(
    ("config", "least"),
    [(MEDIAN, 3), (TRIMMED, 3), (KRUM, 3), (RobustConfig("median", num_byzantine=2), 5)],
)
def test_a_round_with_too_few_updates_keeps_the_model_and_says_why(
    server: ServerState, config: RobustConfig, least: int
) -> None:
    for count in range(1, least):
        accepted, rejected = defend(honest(server, count), server, NO_UPLOADS, config)
        assert not accepted and len(rejected) == count
        expected = (
            f"{config.rule} against {config.num_byzantine} hostile twins takes {least} updates; "
            f"this round has {count}: "
        )
        assert {each.reason for each in rejected} == {expected + "the model stays as it was"}
    assert defend(honest(server, least), server, NO_UPLOADS, config)[0]
    assert defend([], server, NO_UPLOADS, config) == ((), ())


@pytest.mark.parametrize("count", [3, 4])
def test_a_round_with_too_few_updates_for_krum_takes_the_median(
    server: ServerState, count: int
) -> None:
    updates = honest(server, count)
    defended, rejected = defend(updates, server, NO_UPLOADS, KRUM)
    expected, _ = defend(updates, server, NO_UPLOADS, MEDIAN)
    assert not rejected and all(
        same(one.weights, other.weights) for one, other in zip(defended, expected, strict=True)
    )


# Configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "mode"}, "Input should be 'mean', 'median', 'trimmed_mean' or 'krum'"),
        ({"num_byzantine": -1}, "num_byzantine is -1; allowed: 0 or more"),
        ({"trim_share": 0.5}, "trim_share is 0.5; allowed: 0 to below 0.5"),
        ({"trim_share": float("nan")}, "trim_share is nan"),
        ({"num_selected": 0}, "num_selected is 0; allowed: 1 or more"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0; allowed: above 0"),
        ({"clip_norm": float("inf")}, "clip_norm is inf"),
        ({"clip_norm": float("nan")}, "clip_norm is nan"),
        ({"clip": 1.0}, "clip"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=re.escape(message)):
        RobustConfig(**settings)


def test_a_rule_that_no_round_can_have_enough_updates_for_is_refused_before_the_first() -> None:
    with pytest.raises(
        ValueError,
        match=r"krum.* against num_byzantine 2, which takes 7 updates; twins_per_round is 5",
    ):
        RoundConfig(robust=RobustConfig("krum", num_byzantine=2))
    with pytest.raises(ValueError, match="takes 3 updates; twins_per_round is 2"):
        RoundConfig(twins_per_round=2, robust=MEDIAN)
    with pytest.raises(ValueError, match="num_selected is 3; allowed: 1 to 2"):
        RoundConfig(robust=RobustConfig("krum", num_selected=3))
    assert RoundConfig(robust=KRUM).robust.least_updates == 3
    assert (
        RoundConfig(twins_per_round=1, robust=RobustConfig(clip_norm=1.0)).robust.least_updates == 1
    )


def test_a_method_whose_twins_keep_sums_of_their_own_weights_refuses_a_robust_rule() -> None:
    with pytest.raises(
        ConfigError, match=r"method is fedcurv and federation.robust changes what is aggregated"
    ):
        load_experiment(PHANTOM, ["method={name: fedcurv}", "federation.robust={rule: median}"])


def test_the_defence_belongs_to_the_digest_unless_it_is_off() -> None:
    plain = load_experiment(PHANTOM)
    assert load_experiment(PHANTOM, ["federation.robust={rule: mean}"]).digest() == plain.digest()
    assert (
        load_experiment(PHANTOM, ["federation.screening={max_images: 1000000}"]).digest()
        == plain.digest()
    )
    changes = [
        "federation.robust={clip_norm: 1.0}",
        "federation.screening={max_images: 10}",
        "federation.screening={max_relative_upload: 1}",
    ]
    assert (
        len({plain.digest(), *(load_experiment(PHANTOM, [each]).digest() for each in changes)}) == 4
    )


def test_every_method_declares_the_kinds_of_what_a_rule_may_replace() -> None:
    for name, kind in METHODS.items():
        assert bool(kind.uploads) == bool(kind().upload_kinds.by_tensor), name
