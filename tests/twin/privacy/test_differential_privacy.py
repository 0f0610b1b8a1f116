import sys
from math import exp, inf, log, sqrt
from typing import Any

import numpy as np
import pydantic
import pytest
import torch

from incremental.head import Weights
from twin.privacy.differential_privacy import (
    ORDERS,
    PrivacyError,
    PrivacySpent,
    UpdateNoise,
    account_after_restore,
    add_cost,
    clip_and_noise,
    epsilon_of,
)

DELTA = 1e-5


def weights_like(seed: int, scale: float = 1.0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"backbone.conv.weight": (4, 3, 3, 3), "head.weight": (5, 7), "head.bias": (5,)}
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def silent(clip_norm: float) -> UpdateNoise:
    """So little noise that float32 does not see it."""
    return UpdateNoise(clip_norm=clip_norm, noise_multiplier=1e-12)


def slowly_clipped(
    weights: Weights, reference: Weights, clip_norm: float
) -> dict[str, list[float]]:
    total = 0.0
    for name in weights:
        for after, before in zip(
            weights[name].flatten().tolist(), reference[name].flatten().tolist(), strict=True
        ):
            total += (after - before) ** 2
    factor = min(1.0, clip_norm / sqrt(total))
    clipped = {}
    for name in weights:
        pairs = zip(
            weights[name].flatten().tolist(), reference[name].flatten().tolist(), strict=True
        )
        clipped[name] = [before + factor * (after - before) for after, before in pairs]
    return clipped


# --- noise on an update ---


@pytest.mark.parametrize("clip_norm", [0.01, 1.0, 5.0, 1000.0])
def test_the_change_of_all_weights_together_is_clipped_as_a_slow_loop_clips_it(
    clip_norm: float,
) -> None:
    weights, reference = weights_like(1), weights_like(2)
    released = clip_and_noise(weights, reference, silent(clip_norm), generator())
    expected = slowly_clipped(weights, reference, clip_norm)
    for name, value in released.items():
        assert value.dtype == torch.float32
        assert value.shape == weights[name].shape
        torch.testing.assert_close(
            value.flatten(), torch.tensor(expected[name]), rtol=1e-6, atol=1e-6
        )


def test_a_small_change_is_not_scaled_and_zero_stays_zero() -> None:
    reference = weights_like(2)
    near = {name: value + 1e-3 for name, value in reference.items()}
    for name, value in clip_and_noise(near, reference, silent(10.0), generator()).items():
        torch.testing.assert_close(value, near[name])
    for name, value in clip_and_noise(reference, reference, silent(10.0), generator()).items():
        torch.testing.assert_close(value, reference[name])


def test_the_noise_has_the_standard_deviation_that_was_asked_for_on_every_coordinate() -> None:
    reference = {"head.weight": torch.zeros(200, 500), "head.bias": torch.zeros(20_000)}
    config = UpdateNoise(clip_norm=0.5, noise_multiplier=3.0)
    released = clip_and_noise(reference, reference, config, generator())
    for value in released.values():
        error = 5 / sqrt(2 * value.numel())
        assert float(value.std()) == pytest.approx(1.5, rel=error)
        assert abs(float(value.mean())) < 1.5 * 5 / sqrt(value.numel())
    first, second = released["head.weight"].flatten()[:20_000], released["head.bias"]
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 5 / sqrt(20_000)


def test_the_noise_does_not_depend_on_the_change() -> None:
    reference, config = weights_like(2), UpdateNoise(clip_norm=1.0, noise_multiplier=1.0)
    plain = {
        name: torch.tensor(each).view(reference[name].shape)
        for name, each in slowly_clipped(weights_like(1), reference, 1.0).items()
    }
    noisy = clip_and_noise(weights_like(1), reference, config, generator())
    alone = clip_and_noise(reference, reference, config, generator())
    for name in reference:
        torch.testing.assert_close(
            noisy[name] - plain[name], alone[name] - reference[name], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("bad", [inf, -inf, float("nan")])
def test_a_change_that_is_not_finite_counts_as_zero(bad: float) -> None:
    weights, reference = weights_like(1), weights_like(2)
    weights["head.bias"][2] = bad
    config = UpdateNoise(clip_norm=1.0, noise_multiplier=1.0)
    released = clip_and_noise(weights, reference, config, generator())
    expected = clip_and_noise(reference, reference, config, generator())
    assert all(torch.equal(released[name], expected[name]) for name in reference)


def test_seeded_noise_repeats_and_noise_of_the_system_does_not() -> None:
    reference = weights_like(2)
    seeded = UpdateNoise(clip_norm=1.0, noise_multiplier=1.0)
    system = UpdateNoise(clip_norm=1.0, noise_multiplier=1.0, noise_source="system")
    for config, same in ((seeded, True), (system, False)):
        first, second = (
            clip_and_noise(weights_like(1), reference, config, generator()) for _ in range(2)
        )
        assert torch.equal(first["head.bias"], second["head.bias"]) == same


@pytest.mark.parametrize(
    "name", ["backbone.norm.running_mean", "backbone.norm.num_batches_tracked"]
)
def test_statistics_of_batch_normalisation_do_not_leave_without_noise(name: str) -> None:
    extra = torch.tensor(3) if name.endswith("tracked") else torch.zeros(4)
    weights = {**weights_like(1), name: extra}
    with pytest.raises(PrivacyError, match=rf"{name}.*network\.norm: group"):
        clip_and_noise(weights, weights, silent(1.0), generator())


# --- the account ---


def test_equal_costs_are_added_up_whatever_came_between() -> None:
    first, other = PrivacySpent(1.0, 0.1, 40, True), PrivacySpent(1.0, 0.2, 20, True)
    account: tuple[PrivacySpent, ...] = ()
    for cost in (first, other, first):
        account = add_cost(account, cost)
    assert account == (PrivacySpent(1.0, 0.1, 80, True), other)
    assert add_cost(account, PrivacySpent(1.0, 0.2, 1, False)) == (
        *account,
        PrivacySpent(1.0, 0.2, 1, False),
    )


@pytest.mark.parametrize(
    ("noise_multiplier", "steps"), [(0.5, 1), (1.0, 10), (4.0, 3), (20.0, 100)]
)
def test_without_sampling_epsilon_is_that_of_the_closed_form(
    noise_multiplier: float, steps: int
) -> None:
    each = []
    for order in ORDERS:
        divergence = steps * order / (2 * noise_multiplier**2)
        each.append(divergence + log((order - 1) / order) - (log(DELTA) + log(order)) / (order - 1))
    found = epsilon_of([PrivacySpent(noise_multiplier, 1.0, steps, True)], DELTA)
    assert found == pytest.approx(min(each), rel=1e-12)


def exact_delta(noise_multiplier: float, epsilon: float) -> float:
    """Balle and Wang, Improving the Gaussian Mechanism, ICML 2018, theorem 8.

    The least delta of one use.
    """
    normal = torch.distributions.Normal(0.0, 1.0)

    def cumulative(value: float) -> float:
        return float(normal.cdf(torch.tensor(value, dtype=torch.float64)))

    half, shift = 1 / (2 * noise_multiplier), epsilon * noise_multiplier
    return cumulative(half - shift) - exp(epsilon) * cumulative(-half - shift)


@pytest.mark.parametrize("noise_multiplier", [0.7, 1.0, 2.0, 5.0])
def test_the_epsilon_of_one_step_is_near_the_exact_one_and_never_below_it(
    noise_multiplier: float,
) -> None:
    epsilon = epsilon_of([PrivacySpent(noise_multiplier, 1.0, 1, True)], DELTA)
    assert exact_delta(noise_multiplier, epsilon) <= DELTA
    assert exact_delta(noise_multiplier, 0.85 * epsilon) > DELTA


HISTORIES = [
    [(1.0, 0.01, 200)],
    [(1.1, 32 / 1500, 470)],
    [(2.0, 0.3, 50)],
    [(1.0, 1.0, 4)],
    [(0.8, 0.05, 30), (1.2, 0.05, 10), (3.0, 1.0, 2)],
]


@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_epsilon_is_that_of_opacus(history: list[tuple[float, float, int]]) -> None:
    accountants = pytest.importorskip("opacus.accountants")
    theirs = accountants.RDPAccountant()
    theirs.history = list(history)
    account = [PrivacySpent(noise, rate, steps, True) for noise, rate, steps in history]
    assert epsilon_of(account, DELTA) == pytest.approx(theirs.get_epsilon(DELTA), rel=1e-9)


def test_the_epsilon_of_sampling_is_near_that_of_opacus_finer_accountant_and_never_below_it() -> (
    None
):
    accountants = pytest.importorskip("opacus.accountants")
    finer = accountants.PRVAccountant()
    finer.history = [(1.0, 0.05, 100)]
    ours = epsilon_of([PrivacySpent(1.0, 0.05, 100, True)], DELTA)
    assert finer.get_epsilon(DELTA) <= ours <= 1.25 * finer.get_epsilon(DELTA)


def test_nothing_spent_is_epsilon_0_and_more_is_never_less() -> None:
    assert epsilon_of((), DELTA) == 0
    assert epsilon_of([PrivacySpent(1.0, 0.1, 0, True)], DELTA) == 0
    spent = [epsilon_of([PrivacySpent(2.0, 1.0, steps, True)], DELTA) for steps in range(1, 20)]
    assert spent == sorted(spent)
    noise = [
        epsilon_of([PrivacySpent(multiplier, 1.0, 5, True)], DELTA)
        for multiplier in np.geomspace(0.1, 1e4, 30)
    ]
    assert noise == sorted(noise, reverse=True)
    assert noise[-1] >= 0


def test_the_sensitivity_of_an_update_is_the_largest_distance_of_two_data_sets() -> None:
    cost = UpdateNoise(clip_norm=3.0, noise_multiplier=4.0).cost()
    assert cost == PrivacySpent(
        2.0, 1.0, 1, True
    )  # two clipped changes are at most 2 clip_norm apart
    reference = {"head.bias": torch.zeros(2)}
    one, other = ({"head.bias": torch.tensor([9.0 * sign, 0.0])} for sign in (1, -1))
    apart = [
        clip_and_noise(each, reference, silent(3.0), generator())["head.bias"]
        for each in (one, other)
    ]
    assert float((apart[0] - apart[1]).norm()) == pytest.approx(6.0)


def test_restoring_a_state_refunds_seeded_noise_alone() -> None:
    seeded, system = PrivacySpent(1.0, 0.1, 10, True), PrivacySpent(1.0, 0.1, 10, False)
    newest = (PrivacySpent(1.0, 0.1, 20, True), PrivacySpent(1.0, 0.1, 20, False))
    assert account_after_restore((seeded, system), newest) == (
        seeded,
        PrivacySpent(1.0, 0.1, 20, False),
    )
    assert account_after_restore((), newest) == (newest[1],)
    assert account_after_restore(newest, newest) == newest


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm is 0.0; allowed: above 0"),
        ({"clip_norm": inf}, "clip_norm is inf"),
        ({"noise_multiplier": 0.0}, "without noise there is no privacy"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier is nan"),
        ({"delta": 0.0}, "delta is 0.0; allowed: above 0"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"epsilon_budget": 0.0}, "epsilon_budget is 0.0"),
        ({"noise_source": "dice"}, "noise_source"),
        ({"clip": 1.0}, "clip"),
    ],
)
def test_an_impossible_noise_configuration_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        UpdateNoise(**{"clip_norm": 1.0, "noise_multiplier": 1.0, **wrong})


def test_the_account_of_sampled_images_says_what_to_install_where_opacus_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    assert (
        epsilon_of([PrivacySpent(1.7, 1.0, 3, True)], DELTA) > 0
    )  # noise on updates needs no Opacus
    with pytest.raises(PrivacyError, match=r"opacus, which is not installed.*fedka\[privacy\]"):
        epsilon_of([PrivacySpent(1.234567, 0.1, 3, True)], DELTA)
