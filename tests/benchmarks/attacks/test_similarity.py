import pytest
import torch

from benchmarks.attacks.similarity import distances, identified, nearest, psnr, ssim


def images(count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def test_an_image_is_like_itself_and_unlike_noise() -> None:
    ones = images(3)
    assert ssim(ones, ones) == pytest.approx(torch.ones(3))
    assert ssim(ones, images(3, 2)).abs().max() < 0.2
    assert psnr(ones, ones).isinf().all()


def test_a_difference_of_a_tenth_everywhere_is_20_decibels() -> None:
    ones = images(2) * 0.9
    assert psnr(ones + 0.1, ones) == pytest.approx(torch.full((2,), 20.0), abs=1e-3)


def test_structural_similarity_is_that_of_another_library() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    one, other = images(1), (images(1) * 0.7 + images(1, 2) * 0.3)
    # Like MONAI it leaves out the border and has a Gaussian of 1.5 px.
    theirs = metrics.structural_similarity(
        one[0, 0].numpy(),
        other[0, 0].numpy(),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert float(ssim(one, other)) == pytest.approx(theirs, abs=0.02)


def test_distances_are_mean_squared_differences() -> None:
    ones, others = images(3), images(5, 2)
    slow = torch.stack(
        [torch.stack([((one - other) ** 2).mean() for other in others]) for one in ones]
    )
    assert distances(ones, others).float() == pytest.approx(slow, abs=1e-6)
    assert nearest(ones, others).tolist() == slow.argmin(1).tolist()


def test_a_guess_gives_an_image_away_where_no_other_candidate_is_nearer() -> None:
    candidates = images(6)
    guesses = torch.stack([candidates[2] * 0.9, candidates[4]])
    assert identified(guesses, candidates[[2, 5]], candidates).tolist() == [True, False]
