import numpy as np
import pytest
import torch

from twin.privacy.noise import SeededSource, SystemSource, random_source


def seeded(seed: int = 3) -> SeededSource:
    return SeededSource(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("source", [seeded(), SystemSource()], ids=["seeded", "system"])
def test_normal_draws_have_mean_0_and_deviation_1_and_the_tails_of_a_normal_distribution(
    source: SeededSource | SystemSource,
) -> None:
    draws = source.normal((201, 1001)).numpy().ravel()
    spread = 6 / np.sqrt(len(draws))  # six standard errors: fails once in 500 million runs
    assert abs(draws.mean()) < spread
    assert abs(draws.std() - 1) < spread
    for limit, share in ((1, 0.317311), (2, 0.0455), (3, 0.0027)):
        assert abs((np.abs(draws) > limit).mean() - share) < 3 * spread * np.sqrt(share)
    assert (
        abs(
            np.corrcoef(draws[: len(draws) // 2], draws[len(draws) // 2 :][: len(draws) // 2])[0, 1]
        )
        < 2 * spread
    )


@pytest.mark.parametrize("source", [seeded(), SystemSource()], ids=["seeded", "system"])
def test_uniform_draws_fill_the_unit_interval_without_its_end(
    source: SeededSource | SystemSource,
) -> None:
    draws = source.uniform(100_000)
    assert draws.dtype == torch.float64
    assert 0 <= float(draws.min()) < 1e-3
    assert 1 - 1e-3 < float(draws.max()) < 1
    assert abs(float(draws.mean()) - 0.5) < 0.006


def test_seeded_draws_are_those_of_the_seed_and_the_systems_never_come_again() -> None:
    assert torch.equal(seeded().normal((7,)), seeded().normal((7,)))
    assert not torch.equal(seeded().normal((7,)), seeded(4).normal((7,)))
    assert not torch.equal(SystemSource().normal((7,)), SystemSource().normal((7,)))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3, 5)])
def test_any_shape_can_be_asked_for(shape: tuple[int, ...]) -> None:
    assert SystemSource().normal(shape).shape == shape
    assert seeded().normal(shape).shape == shape


def test_the_system_source_leaves_the_generator_and_torchs_own_stream_alone() -> None:
    generator, own = torch.Generator().manual_seed(1), torch.get_rng_state()
    before = generator.get_state()
    random_source("system", generator).normal((9,))
    assert torch.equal(before, generator.get_state())
    assert torch.equal(own, torch.get_rng_state())
    random_source("seeded", generator).normal((9,))
    assert not torch.equal(before, generator.get_state())


def test_torchs_generator_has_32_bits_of_seed_too_few_to_hide_noise() -> None:
    assert torch.equal(seeded(5).uniform(4), seeded(5 + 2**40).uniform(4))
