"""Gradient encoding of prototypes, and its inversion on the proxy server.

A twin sends no image, but the gradient of a fixed random network's loss at a perturbed prototype
(the *encoding*). The proxy server searches the image with this gradient (the *inversion*). It
resembles the prototype: methods that use this declare a leak of images.

Sources: FedKA section 2.1, GLFC (Dong et al., CVPR 2022, section 3.4); inversion: Zhu et al., Deep
Leakage from Gradients, NeurIPS 2019, eq. 4; label from the gradient: Zhao et al., iDLG, 2020, eq.
4. All prototypes are inverted in one batch by Adam, each with its own early stop, instead of one by
one with 250 restarts of L-BFGS.
"""

from dataclasses import dataclass

import pydantic.dataclasses
import torch
from jaxtyping import Float, Int
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from incremental.device import CPU
from incremental.network import IncrementalNetwork


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReconstructionConfig:
    """Perturbation and inversion of prototypes.

    Args:
        perturb_steps: Gradient steps on a prototype's pixels that raise the local model's
            confidence in its class.
        perturb_rate: Learning rate of these steps; the weight decay is 1e-5, as in the public code.
        invert_steps: Most steps of the inversion.
        invert_rate: Learning rate of the inversion (Adam).
        stop_below: The inversion stops when the squared gradient differences of all prototypes are
            below this share of their gradients' squares.
        public_seed: Seed of the public network, the same for twins and proxy server.
    """

    perturb_steps: int = 50
    perturb_rate: float = 0.2
    invert_steps: int = 300
    invert_rate: float = 0.1
    stop_below: float = 1e-4
    public_seed: int = 2021

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.perturb_steps < 0 or self.invert_steps < 1:
            raise ValueError(
                f"perturb_steps is {self.perturb_steps} and invert_steps {self.invert_steps}; "
                "allowed: 0 or more and 1 or more"
            )


@dataclass(frozen=True)
class Reconstruction:
    """Images that the proxy server recovered.

    Args:
        images: Values in [0, 1], shape [P, C, H, W].
        rows: Class of each as a row of the head, shape [P].
        residual: Squared gradient difference as a share of the gradient's square, shape [P].
        steps: Number of steps that were run.
    """

    images: Float[Tensor, "P C H W"]
    rows: Int[Tensor, " P"]
    residual: Float[Tensor, " P"]
    steps: int


class GradientEncoder(nn.Module):
    """The public LeNet, random and never trained: three convolutions and a linear layer.

    The convolutions are 5x5 with 12 channels and sigmoids.

    Args:
        image_shape: Channels, height and width of a prototype.
        classes: Rows of the linear layer.
        public_seed: Draws all weights and biases from U(-0.5, 0.5).
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, public_seed: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        generator = torch.Generator().manual_seed(public_seed)
        # On the CPU wherever twins train, as all must draw the same network.
        with CPU, torch.random.fork_rng(devices=[]):
            self.convolutions = nn.Sequential(
                *(nn.Conv2d(channels, 12, 5, 2, padding=2), nn.Sigmoid()),
                *(nn.Conv2d(12, 12, 5, 2, padding=2), nn.Sigmoid()),
                *(nn.Conv2d(12, 12, 5, 1, padding=2), nn.Sigmoid()),
            )
            self.linear = nn.Linear(12 * ((height + 3) // 4) * ((width + 3) // 4), classes)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
        self.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return the logits."""
        return self.linear(self.convolutions(images).flatten(1))  # type: ignore[no-any-return]  # returns Any

    def encode(
        self, images: Float[Tensor, "P C H W"], rows: Int[Tensor, " P"]
    ) -> Float[Tensor, "P G"]:
        """Return each image's gradient of cross-entropy, flat in the order of ``parameters()``."""
        parameters: dict[str, Tensor] = dict(self.named_parameters())

        def loss(parameters: dict[str, Tensor], image: Tensor, row: Tensor) -> Tensor:
            logits = functional_call(self, parameters, (image[None],))
            return nn.functional.cross_entropy(logits, row[None])

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, rows)
        return torch.cat([gradients[name].flatten(1) for name in parameters], 1)

    def rows_of(self, gradients: Float[Tensor, "P G"]) -> Int[Tensor, " P"]:
        """Return the class of each gradient: the linear layer's one negative row (iDLG)."""
        before = sum(each.numel() for each in self.convolutions.parameters())
        weight = gradients[:, before : before + self.linear.weight.numel()]
        return weight.view(len(gradients), *self.linear.weight.shape).sum(2).argmin(1)


def encoding_length(image_shape: tuple[int, int, int], classes: int) -> int:
    """Return the length G of an encoding, without building the network."""
    channels, height, width = image_shape
    convolutions = 12 * 25 * (channels + 12 + 12) + 3 * 12
    return convolutions + classes * (12 * ((height + 3) // 4) * ((width + 3) // 4) + 1)


def perturb(
    network: IncrementalNetwork,
    images: Float[Tensor, "P C H W"],
    rows: Int[Tensor, " P"],
    config: ReconstructionConfig,
) -> Float[Tensor, "P C H W"]:
    """Return prototypes changed to raise the local model's confidence, with pixels in [0, 1].

    Descends the mean binary cross-entropy to the one-hot class, as the public code of GLFC and LGA
    does.
    """
    network = network.eval()
    target = nn.functional.one_hot(rows, network.head.out_features).to(torch.float32)
    changed = images.clone()
    for _ in range(config.perturb_steps):
        changed.requires_grad_()
        losses = nn.functional.binary_cross_entropy_with_logits(
            network(changed).logits, target, reduction="none"
        )
        (gradient,) = torch.autograd.grad(losses.mean(1).sum(), changed)
        changed = (
            changed.detach() - config.perturb_rate * (gradient + 1e-5 * changed.detach())
        ).clamp(0, 1)
    return changed.detach()


def invert(
    encoder: GradientEncoder,
    gradients: Float[Tensor, "P G"],
    image_shape: tuple[int, int, int],
    config: ReconstructionConfig,
    generator: torch.Generator,
) -> Reconstruction:
    """Search the images that have these gradients, all in one batch.

    Args:
        encoder: The public network.
        gradients: Encodings from twins.
        image_shape: Channels, height and width.
        config: Steps and learning rate.
        generator: Draws the initial images.
    """
    rows = encoder.rows_of(gradients)
    scale = gradients.square().sum(1).clamp_min(1e-12)
    guess = torch.rand(len(gradients), *image_shape, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=config.invert_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, config.invert_steps, config.invert_rate / 50
    )
    best, best_residual = guess.detach().clone(), torch.full((len(gradients),), torch.inf)
    step = 0
    for step in range(1, config.invert_steps + 1):  # noqa: B007  # the number of steps is returned
        residual = (encoder.encode(guess, rows) - gradients).square().sum(1) / scale
        better = residual.detach() < best_residual
        best = torch.where(better[:, None, None, None], guess.detach(), best)
        best_residual = torch.where(better, residual.detach(), best_residual)
        if bool((best_residual < config.stop_below).all()):
            break
        (guess.grad,) = torch.autograd.grad(residual.sum(), guess)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            guess.clamp_(0, 1)
    return Reconstruction(best, rows, best_residual, step)
