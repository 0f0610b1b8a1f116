import torch

from benchmarks.attacks.inversion import (
    AttackConfig,
    match_direction,
    mismatch,
    polish,
    reconstructions,
    undo_perturbation,
)
from benchmarks.attacks.inversion import total_variation as variation
from benchmarks.attacks.similarity import psnr
from incremental.network import IncrementalNetwork, NetworkConfig
from incremental.reconstruction import GradientEncoder, ReconstructionConfig, perturb

SHAPE = (1, 16, 16)


def made() -> tuple[GradientEncoder, torch.Tensor, torch.Tensor]:
    down, across = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    images = torch.stack([(down / 5).sin(), (across / 4).cos()])[:, None] / 2.5 + 0.5
    return GradientEncoder(SHAPE, 4, 2021), images, torch.tensor([3, 1])


def test_the_right_image_has_no_mismatch_however_the_gradient_was_scaled() -> None:
    encoder, images, rows = made()
    assert mismatch(encoder, images, 0.01 * encoder.encode(images, rows)).abs().max() < 1e-5
    assert mismatch(encoder, 1 - images, encoder.encode(images, rows)).min() > 1e-4


def test_values_that_were_not_sent_are_ignored() -> None:
    encoder, images, rows = made()
    gradients = encoder.encode(images, rows)
    gradients[:, :300] = 0  # the first convolution's weights
    assert mismatch(encoder, images, gradients).abs().max() < 1e-5


def test_total_variation_of_a_ramp_is_its_slope() -> None:
    ramp = (torch.arange(16.0) * 0.05).expand(1, 1, 16, 16)
    assert torch.allclose(variation(ramp), torch.tensor([0.05]))


def test_the_attack_finds_the_image_and_polishing_brings_it_nearer() -> None:
    encoder, images, rows = made()
    config = AttackConfig(steps=150, restarts=2, polish_steps=40)
    rough, polished = reconstructions(
        encoder, encoder.encode(images, rows), SHAPE, config, torch.Generator().manual_seed(1)
    )
    assert psnr(rough, images).min() > 18
    assert psnr(polished, images).mean() > psnr(rough, images).mean()
    assert next(encoder.parameters()).dtype == torch.float32


def test_polishing_stays_where_the_gradient_is_matched() -> None:
    encoder, images, rows = made()
    assert psnr(polish(encoder, encoder.encode(images, rows), images, 5), images).min() > 40


def test_matching_keeps_pixels_between_black_and_white() -> None:
    encoder, images, rows = made()
    found = match_direction(
        encoder, encoder.encode(images, rows), torch.ones_like(images), 5, 0.5, 0.0
    )
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_local_model_undoes_a_perturbation() -> None:
    _, images, rows = made()
    torch.manual_seed(1)
    network = IncrementalNetwork(
        NetworkConfig(backbone="lenet", width=4, image_size=16, channels=1), 4
    )
    config = ReconstructionConfig(perturb_steps=10, perturb_rate=0.2)
    images = 0.2 + 0.6 * images  # so that nothing is clamped
    moved = perturb(network, images, rows, config)
    back = undo_perturbation(network, moved, rows, config)
    gained = psnr(back, images) - psnr(moved, images)
    assert (
        gained.min() > 1
    )  # [dB]; rectifiers have kinks, across which a step back is not the step's inverse
    assert gained.mean() > 5
