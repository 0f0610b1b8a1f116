"""DP-SGD: per-image gradients are clipped, their sum gets noise, batches are Poisson-sampled.

Source: Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1. Gradients of
single images come from Opacus' hooks (``GradSampleModule``), clipping and averaging from its
``DPOptimizer``. Noise comes from the configured source instead of Opacus. A method declares whether
its loss is a mean over images (``Method.per_sample_loss``).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any, ClassVar

import pydantic.dataclasses
import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from incremental.convolution import Convolution, Shortcut
from twin.objective import Terms
from twin.privacy.differential_privacy import (
    PrivacyError,
    PrivacySpent,
    check_mechanism,
    require_opacus,
)
from twin.privacy.noise import NoiseSource, RandomSource, random_source

_TOLERANCE = 1e-3  # relative; hooks and autograd sum in another order


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PrivateTraining:
    """DP-SGD in place of SGD; it protects each single training image of a round.

    A step samples each of N images with probability ``batch_size / N``; an epoch has as many steps
    as without privacy. ``training.gradient_clip`` applies to the noisy gradient: with many weights,
    set it to none.

    Args:
        noise_multiplier: Standard deviation of the noise on each coordinate of the sum over
            ``max_grad_norm``.
        max_grad_norm: Largest norm of one image's gradient.
        delta: Delta of the guarantee (epsilon, delta); well below 1 / images of a hospital.
        epsilon_budget: A twin whose next round would exceed it stops training; none: no limit.
        noise_source: Source of noise and sampling. ``seeded``: repeatable, for simulations; no
            guarantee against those who know the seed, as the server does. ``system``: the operating
            system; not repeatable.
    """

    noise_multiplier: float = 1.0
    max_grad_norm: float = 1.0
    delta: float = 1e-5
    epsilon_budget: float | None = None
    noise_source: NoiseSource = "seeded"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; allowed: above 0")
        check_mechanism(self.noise_multiplier, self.delta, self.epsilon_budget)

    def cost(self, num_images: int, batch_size: int, epochs: int) -> PrivacySpent:
        """Return the privacy that a round on so many images spends."""
        steps = epochs * ceil(num_images / batch_size)
        return PrivacySpent(
            self.noise_multiplier,
            sample_rate(num_images, batch_size),
            steps,
            self.noise_source == "seeded",
        )


def sample_rate(num_images: int, batch_size: int) -> float:
    """Return the probability that an image is in a step."""
    return min(1.0, batch_size / num_images)


class PrivateSteps:
    """The steps of one local training with DP-SGD, made by ``private_steps``.

    Args:
        parameters: Parameters whose ``grad_sample`` the hooks set.
        optimiser: Opacus' optimiser around plain SGD.
        terms_of: Returns the loss terms of the images at these indices.
        num_images: Number of training images, N.
        batch_size: Images of a step on average.
        gradient_clip: Largest norm of a step's noisy gradient; none: no limit.
        draws: Source of the sampling.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimiser: Any,
        terms_of: Callable[[Tensor], Terms],
        num_images: int,
        batch_size: int,
        gradient_clip: float | None,
        draws: RandomSource,
    ) -> None:
        self._parameters, self._optimiser, self._terms_of = parameters, optimiser, terms_of
        self._num_images, self._batch_size = num_images, batch_size
        self._gradient_clip, self._draws = gradient_clip, draws
        self._checked = False

    def draw(self) -> Iterator[Tensor]:
        """Return the image indices of each step of an epoch; a step may have none."""
        rate = sample_rate(self._num_images, self._batch_size)
        for _ in range(ceil(self._num_images / self._batch_size)):
            yield (self._draws.uniform(self._num_images) < rate).nonzero().squeeze(1)

    def step(self, chosen: Tensor) -> Terms:
        """Take one step. No term is returned: losses and norms of private images must not leave."""
        self._optimiser.zero_grad(set_to_none=True)
        if len(chosen):
            self._set_image_gradients(chosen)
        else:
            for parameter in self._parameters:  # a sum over no images: noise alone
                empty = parameter.new_zeros(0, *parameter.shape)
                parameter.grad_sample = empty  # type: ignore[attr-defined]  # Opacus sets it
        # Clips, sums, adds noise, divides by the expected number of images.
        self._optimiser.pre_step()
        nn.utils.clip_grad_norm_(self._parameters, self._gradient_clip or torch.inf)
        self._optimiser.original_optimizer.step()
        return {}

    def _set_image_gradients(self, chosen: Tensor) -> None:
        total = torch.stack(list(self._terms_of(chosen).values())).sum()
        with warnings.catch_warnings():
            # The first layer's input, the images, has no gradient, and none is needed.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            total.backward()  # type: ignore[no-untyped-call]  # the library is untyped
        for parameter in self._parameters:
            own = getattr(parameter, "grad_sample", None)
            # Clipping cannot bound values that are not finite, and the guarantee rests on clipping.
            finite = (
                parameter.new_zeros(len(chosen), *parameter.shape)
                if own is None
                else torch.nan_to_num(own, 0.0, 0.0, 0.0)
            )
            parameter.grad_sample = finite  # type: ignore[attr-defined]  # set at run time
        if not self._checked:
            self._check_against_autograd()
            self._checked = True

    def _check_against_autograd(self) -> None:
        """Check that the images' gradients add up to autograd's.

        Raises:
            PrivacyError: If not: a loss that uses weights directly has gradients that no hook sees.
        """
        for parameter in self._parameters:
            images: Tensor = parameter.grad_sample  # type: ignore[attr-defined]  # set at run time
            whole = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            error, size = (whole - images.mean(0)).norm(), images.flatten(1).norm(dim=1).mean()
            if bool(torch.isfinite(error)) and float(error) > _TOLERANCE * float(size) + 1e-6:
                raise PrivacyError(
                    "the loss moves weights in a way that the gradients of its images do not show, "
                    "so they cannot be clipped one by one; use a method whose loss uses the "
                    "network's outputs alone, or switch training.private off"
                )


@contextmanager
def private_steps(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    terms_of: Callable[[Tensor], Terms],
    num_images: int,
    batch_size: int,
    gradient_clip: float | None,
    config: PrivateTraining,
    generator: torch.Generator,
) -> Iterator[PrivateSteps]:
    """Yield the steps of DP-SGD; the hooks that compute each image's gradient end with the context.

    Args:
        network: In training mode, without batch normalisation; its memory format becomes
            contiguous.
        optimiser: Plain SGD over its parameters.
        terms_of: Returns the loss terms, each a mean over the images at these indices.
        num_images: Number of training images, N.
        batch_size: Images of a step on average.
        gradient_clip: Largest norm of a step's noisy gradient; none: no limit.
        config: Clipping and noise.
        generator: Used with ``noise_source: seeded``.

    Raises:
        PrivacyError: If Opacus is not installed, or if the network has layers that mix images.
    """
    draws = random_source(config.noise_source, generator)
    expected = num_images * sample_rate(num_images, batch_size)
    parameters = [each for each in network.parameters() if each.requires_grad]
    with per_image_gradients(network):
        dp = private_optimiser(
            optimiser, config.noise_multiplier, config.max_grad_norm, expected, draws
        )
        yield PrivateSteps(parameters, dp, terms_of, num_images, batch_size, gradient_clip, draws)


@contextmanager
def per_image_gradients(network: nn.Module) -> Iterator[None]:
    """Let backward passes store each image's gradient in ``grad_sample`` of each parameter.

    Args:
        network: As in ``private_steps``.

    Raises:
        PrivacyError: As in ``private_steps``.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise PrivacyError(
                f"{name} is a batch normalisation, which mixes the images of a batch, so that no "
                "gradient belongs to one of them; set network.norm: group"
            )
    require_opacus()
    from opacus import GradSampleModule  # noqa: PLC0415  # optional, takes seconds

    class Hooks(GradSampleModule):  # type: ignore[misc]  # the base is untyped
        GRAD_SAMPLERS: ClassVar[dict[type[nn.Module], Any]] = {
            **GradSampleModule.GRAD_SAMPLERS,
            nn.Conv2d: _convolution_gradients,
            Convolution: _convolution_gradients,
            Shortcut: _convolution_gradients,
        }

    # SGD's kernels expect gradients in the weights' memory order, and Opacus' are contiguous.
    network.to(memory_format=torch.contiguous_format)
    hooks = Hooks(network, strict=False)  # our buffers are constants of the normalisation
    try:
        yield
    finally:
        hooks.to_standard_module()


def private_optimiser(
    optimiser: torch.optim.Optimizer,
    noise_multiplier: float,
    max_grad_norm: float,
    expected: float,
    draws: RandomSource,
) -> Any:
    """Return Opacus' optimiser with noise from the given source.

    Args:
        optimiser: Takes the step.
        noise_multiplier: Standard deviation of the noise over ``max_grad_norm``.
        max_grad_norm: Largest norm of one image's gradient.
        expected: Images of a step on average, by which the noisy sum is divided.
        draws: Source of the noise.
    """
    from opacus.optimizers import DPOptimizer  # noqa: PLC0415

    class Optimiser(DPOptimizer):  # type: ignore[misc]  # the base is untyped
        def add_noise(self) -> None:
            """Add noise in float64."""
            deviation = self.noise_multiplier * self.max_grad_norm
            for parameter in self.params:
                clipped: Tensor = parameter.summed_grad
                noisy = clipped.double() + deviation * draws.normal(clipped.shape)
                parameter.grad = noisy.to(parameter.dtype).view_as(parameter)

    return Optimiser(
        optimiser,
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        expected_batch_size=expected,
    )


def _convolution_gradients(
    layer: nn.Conv2d, activations: Sequence[Tensor], output_gradients: Tensor
) -> dict[Tensor, Tensor]:
    """Return each image's gradient of a convolution without groups.

    Opacus' own function ignores subclasses and silently gives wrong gradients for maps in channels
    last format, which the images of a hospital have.
    """
    assert not isinstance(layer.padding, str)
    neighbourhoods = functional.unfold(  # [B, D k k, h w]
        activations[0].to(output_gradients.dtype),
        layer.kernel_size,
        dilation=layer.dilation,
        padding=layer.padding,
        stride=layer.stride,
    )
    gradients = torch.einsum("beq,bdq->bed", output_gradients.flatten(2), neighbourhoods)
    found = {layer.weight: gradients.view(-1, *layer.weight.shape)}
    if layer.bias is not None:
        found[layer.bias] = output_gradients.sum((2, 3))
    return found
