"""Similarity of reconstructions to images, and identification of an image among others.

SSIM and PSNR are MONAI's, on pixels in [0, 1]; SSIM has a Gaussian window of 11 px.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

_WINDOW = 11  # px
_AT_ONCE = 2048  # images compared in one product


@dataclass(frozen=True)
class Likeness:
    """Similarity of reconstructions to the true images; means over the images.

    Args:
        ssim: Structural similarity; 1 means equal (Wang et al., 2004).
        psnr: Peak signal-to-noise ratio [dB]; above 30 dB the difference is hardly visible.
        worst: SSIM of the best reconstruction, which is the worst for a patient.
        identified: Share of reconstructions whose nearest training image of the class is the true
            one.
    """

    ssim: float
    psnr: float
    worst: float
    identified: float


def ssim(ones: Tensor, others: Tensor) -> Tensor:
    """Return the structural similarity of each pair of images [P, C, H, W], shape [P]."""
    from monai.metrics import SSIMMetric

    metric = SSIMMetric(spatial_dims=2, data_range=1.0, win_size=_WINDOW, reduction="none")
    return cast(Tensor, metric(ones, others)).flatten()


def psnr(ones: Tensor, others: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair [P, C, H, W], shape [P] [dB].

    It is infinite for equal images.
    """
    from monai.metrics import PSNRMetric

    return cast(Tensor, PSNRMetric(max_val=1, reduction="none")(ones, others)).flatten()


def distances(images: Tensor, candidates: Tensor) -> Tensor:
    """Return the mean squared difference of images [P, ...] to candidates [N, ...], [P, N]."""
    ones, others = images.flatten(1).double(), candidates.flatten(1)
    parts = [torch.cdist(ones, part.double()).square() for part in torch.split(others, _AT_ONCE)]
    return torch.cat(parts, 1) / ones.shape[1]


def nearest(images: Tensor, candidates: Tensor) -> Tensor:
    """Return the index of the candidate nearest to each image, shape [P]."""
    return distances(images, candidates).argmin(1)


def identified(guesses: Tensor, truths: Tensor, candidates: Tensor) -> Tensor:
    """Return whether the candidate nearest to each guess equals the true image, shape [P]."""
    return (candidates[nearest(guesses, candidates)] == truths).flatten(1).all(1)
