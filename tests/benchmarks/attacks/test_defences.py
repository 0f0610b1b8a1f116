import torch

from benchmarks.attacks.defences import clip, eight_bits, half, largest, noisy


def gradients() -> torch.Tensor:
    return torch.randn(3, 1000, generator=torch.Generator().manual_seed(1))


def test_clipping_shortens_only_gradients_above_the_norm() -> None:
    clipped = clip(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    assert torch.allclose(clipped, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


def test_noise_has_the_multiplier_times_the_largest_norm_in_each_coordinate() -> None:
    given = gradients()
    noise = noisy(given, 0.5, torch.Generator().manual_seed(2)) - given
    expected = 0.5 * given.norm(dim=1).max()
    assert abs(float(noise.std() / expected) - 1) < 0.05


def test_fewer_bits_round_within_their_step() -> None:
    given = gradients()
    assert ((half(given) - given).abs() <= given.abs() * 2**-10).all()
    step = given.abs().amax(1, keepdim=True) / 127
    assert ((eight_bits(given) - given).abs() <= step / 2 + 1e-6).all()
    assert len(set(eight_bits(given)[0].tolist())) <= 255


def test_only_the_largest_values_are_kept() -> None:
    kept = largest(torch.tensor([[1.0, -5.0, 2.0, 0.5]]), 0.5)
    assert kept.tolist() == [[0.0, -5.0, 2.0, 0.0]]
