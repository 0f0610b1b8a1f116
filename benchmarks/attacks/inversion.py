"""A stronger attack on prototype gradients than the proxy server's own search.

Source: Geiping et al., Inverting Gradients, NeurIPS 2020, eq. 4: cosine similarity and total
variation, Adam on the gradient's sign, pixels kept in [0, 1], several first guesses. The class is
read off the gradient as in iDLG (Zhao et al., 2020). Two steps are ours: L-BFGS in float64 refines
the best guess, and the prototype's perturbation is undone with the uploaded local model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from incremental.network import IncrementalNetwork
from incremental.reconstruction import GradientEncoder, ReconstructionConfig

_SMALLEST = 1e-13  # smallest mismatch in float64 that differs from 0


@dataclass(frozen=True)
class AttackConfig:
    """Effort of the attack.

    Args:
        steps: Steps of Adam.
        rate: Learning rate of Adam.
        restarts: Number of first guesses; the one that fits the gradient best is used.
        smoothness: Weights of the total variation; each is tried.
        polish_steps: Steps of L-BFGS; 0: none (it would fit noise).
    """

    steps: int = 400
    rate: float = 0.05
    restarts: int = 2
    smoothness: tuple[float, ...] = (1e-4,)
    polish_steps: int = 200


def reconstructions(
    encoder: GradientEncoder,
    gradients: Tensor,
    image_shape: tuple[int, int, int],
    config: AttackConfig,
    generator: torch.Generator,
) -> list[Tensor]:
    """Return candidate reconstructions [P, C, H, W]: one per smoothness, before and after L-BFGS.

    Args:
        encoder: The public network.
        gradients: Uploaded gradients, shape [P, G]; values that are exactly 0 were not sent.
        image_shape: Channels, height and width.
        config: Effort of the attack.
        generator: Source of the first guesses.
    """
    answers = []
    for smoothness in config.smoothness:
        guesses = torch.rand(config.restarts * len(gradients), *image_shape, generator=generator)
        repeated = gradients.repeat(config.restarts, 1)
        found = match_direction(encoder, repeated, guesses, config.steps, config.rate, smoothness)
        tries = mismatch(encoder, found, repeated).view(config.restarts, -1)
        best = tries.argmin(0) * len(gradients) + torch.arange(len(gradients))
        answers.append(found[best])
        if config.polish_steps:
            answers.append(polish(encoder, gradients, found[best], config.polish_steps))
    return answers


def mismatch(encoder: GradientEncoder, images: Tensor, gradients: Tensor) -> Tensor:
    """Return 1 - cosine between each image's gradient and the nonzero sent values, shape [P]."""
    own = encoder.encode(images, encoder.rows_of(gradients)) * (gradients != 0)
    return 1 - torch.cosine_similarity(own, gradients, dim=1)


def total_variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of vertical plus horizontal neighbours, shape [P]."""
    return images.diff(dim=2).abs().mean((1, 2, 3)) + images.diff(dim=3).abs().mean((1, 2, 3))


def match_direction(
    encoder: GradientEncoder,
    gradients: Tensor,
    guesses: Tensor,
    steps: int,
    rate: float,
    smoothness: float,
) -> Tensor:
    """Return images whose gradients have the given directions (Geiping et al., eq. 4)."""
    images = guesses.clone().requires_grad_()
    optimiser = torch.optim.Adam([images], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, rate / 100)
    for _ in range(steps):
        loss = mismatch(encoder, images, gradients) + smoothness * total_variation(images)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        images.grad = gradient.sign()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach()


def polish(encoder: GradientEncoder, gradients: Tensor, guesses: Tensor, steps: int) -> Tensor:
    """Return the guesses after L-BFGS in float64.

    The loss is the sum of the mismatches' logarithms, so that no prototype outweighs another.
    """
    free = guesses.double().clamp(1e-4, 1 - 1e-4).logit().requires_grad_()
    search = torch.optim.LBFGS(
        [free],
        max_iter=steps,
        max_eval=2 * steps,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )
    exact = gradients.double()

    def loss() -> Tensor:
        total = (
            (mismatch(encoder, free.sigmoid(), exact) + _SMALLEST).clamp_min(_SMALLEST).log().sum()
        )
        (free.grad,) = torch.autograd.grad(total, free)
        return total.detach()

    encoder.double()
    try:
        search.step(loss)  # type: ignore[no-untyped-call]  # untyped in torch
    finally:
        encoder.float()
    return free.detach().sigmoid().to(guesses.dtype)


def undo_perturbation(
    network: IncrementalNetwork, images: Tensor, rows: Tensor, config: ReconstructionConfig
) -> Tensor:
    """Return the images that ``incremental.reconstruction.perturb`` would move to these.

    Each step back solves ``x = clamp(y + rate * (gradient(x) + decay * x))`` by two fixed-point
    iterations. Pixels that ``perturb`` clamped are lost.

    Args:
        network: The local model as uploaded.
        images: Reconstructions of perturbed prototypes.
        rows: Their classes.
        config: The perturbation, which is public.
    """
    network = network.eval()
    target = nn.functional.one_hot(rows, network.head.out_features).to(torch.float32)

    def descent(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        loss = (
            nn.functional.binary_cross_entropy_with_logits(
                network(at).logits, target, reduction="none"
            )
            .mean(1)
            .sum()
        )
        (gradient,) = torch.autograd.grad(loss, at)
        return (gradient + 1e-5 * at).detach()

    for _ in range(config.perturb_steps):
        before = images
        for _ in range(2):
            before = (images + config.perturb_rate * descent(before)).clamp(0, 1)
        images = before
    return images
