"""DP-SGD: per-image gradients are clipped, their sum gets noise, batches are Poisson-sampled.

Source: Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1. Gradients of
single images come from Opacus' hooks (``GradSampleModule``), clipping and averaging from its
``DPOptimizer``; the noise is ours, because it has to come from where the configuration says. Knows
no method: whether a loss is a mean over images is the method's to say (``Method.per_sample_loss``).
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
from twin.privacy.noise import NoiseSource, Randomness, randomness

_AGREE = 1e-3  # of the gradients' size; hooks and autograd sum in another order


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PrivateTraining:
    """DP-SGD in place of SGD.

    What is protected is one image among those that a round trains on. A step draws each of N images
    with chance ``batch_size / N``; an epoch has as many steps as without privacy.
    ``training.gradient_clip`` holds for the noisy gradient: with many weights, set it to none.

    Args:
        noise_multiplier: Standard deviation of the noise on each coordinate of the sum over
            ``max_grad_norm``.
        max_grad_norm: Largest norm of one image's gradient.
        delta: Of (epsilon, delta); well below 1 / images of a hospital.
        epsilon_budget: A twin whose next round would exceed it trains no more; none: it is counted
            and not limited.
        noise_source: ``seeded``: for simulations; no guarantee against who knows the seed, as the
            server does. ``system``: noise and draws of images come from the operating system; the
            run cannot be repeated.
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
        """Return what one round on so many images costs."""
        steps = epochs * ceil(num_images / batch_size)
        return PrivacySpent(
            self.noise_multiplier,
            sample_rate(num_images, batch_size),
            steps,
            self.noise_source == "seeded",
        )


def sample_rate(num_images: int, batch_size: int) -> float:
    """Return the chance with which a step draws an image."""
    return min(1.0, batch_size / num_images)


class PrivateSteps:
    """The steps of one local training; see ``private_steps``.

    Args:
        parameters: Whose ``grad_sample`` the hooks fill.
        optimiser: Opacus' around plain SGD.
        terms_of: Returns the terms of the loss of the images at these places.
        num_images: N.
        batch_size: Images of a step on average.
        gradient_clip: Largest norm of a step's noisy gradient; none: no limit.
        draws: Where chance comes from.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimiser: Any,
        terms_of: Callable[[Tensor], Terms],
        num_images: int,
        batch_size: int,
        gradient_clip: float | None,
        draws: Randomness,
    ) -> None:
        self._parameters, self._optimiser, self._terms_of = parameters, optimiser, terms_of
        self._num_images, self._batch_size, self._gradient_clip, self._draws = (
            num_images,
            batch_size,
            gradient_clip,
            draws,
        )
        self._checked = False

    def draw(self) -> Iterator[Tensor]:
        """Return the places of the images of each step of an epoch.

        There may be none in a step (Poisson sampling).
        """
        rate = sample_rate(self._num_images, self._batch_size)
        for _ in range(ceil(self._num_images / self._batch_size)):
            yield (self._draws.uniform(self._num_images) < rate).nonzero().squeeze(1)

    def step(self, chosen: Tensor) -> Terms:
        """Take one step; nothing is measured.

        For losses and norms of private images may not leave.
        """
        self._optimiser.zero_grad(set_to_none=True)
        if len(chosen):
            self._differentiate(chosen)
        else:
            for parameter in self._parameters:  # a sum over no images: noise alone
                empty = parameter.new_zeros(0, *parameter.shape)
                parameter.grad_sample = empty  # type: ignore[attr-defined]  # Opacus sets it
        # Clips, sums, adds noise, divides by the expected number of images.
        self._optimiser.pre_step()
        nn.utils.clip_grad_norm_(self._parameters, self._gradient_clip or torch.inf)
        self._optimiser.original_optimizer.step()
        return {}

    def _differentiate(self, chosen: Tensor) -> None:
        total = torch.stack(list(self._terms_of(chosen).values())).sum()
        with warnings.catch_warnings():
            # Images have no gradient, so the hook of the first layer fires without that of its
            # input, which nobody asks for.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            total.backward()  # type: ignore[no-untyped-call]  # the library is untyped
        for parameter in self._parameters:
            own = getattr(parameter, "grad_sample", None)
            # What is not finite would be so after clipping as well, and clipping is what the
            # guarantee rests on.
            sane = (
                parameter.new_zeros(len(chosen), *parameter.shape)
                if own is None
                else torch.nan_to_num(own, 0.0, 0.0, 0.0)
            )
            parameter.grad_sample = sane  # type: ignore[attr-defined]  # set at run time
        if not self._checked:
            self._check()
            self._checked = True

    def _check(self) -> None:
        """Compare with autograd, once.

        A loss that reaches weights past their layers has gradients that no hook sees.

        Raises:
            PrivacyError: If they differ.
        """
        for parameter in self._parameters:
            each: Tensor = parameter.grad_sample  # type: ignore[attr-defined]  # set at run time
            whole = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            apart, size = (whole - each.mean(0)).norm(), each.flatten(1).norm(dim=1).mean()
            if bool(torch.isfinite(apart)) and float(apart) > _AGREE * float(size) + 1e-6:
                raise PrivacyError(
                    "the loss moves weights in a way that the gradients of its images do not show, "
                    "so they cannot be clipped one by one; "
                    "use a method whose loss looks at the network's outputs alone, or switch "
                    "training.private off"
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
    """Give a network hooks that compute the gradient of each image, and take them away in the end.

    Args:
        network: In training mode, without batch normalisation; its memory format becomes the plain
            one.
        optimiser: Plain SGD over its parameters.
        terms_of: Returns the terms of the loss, each a mean over the images at these places.
        num_images: N.
        batch_size: Images of a step on average.
        gradient_clip: Largest norm of a step's noisy gradient; none: no limit.
        config: Clipping and noise.
        generator: Used with ``noise_source: seeded``.

    Raises:
        PrivacyError: If Opacus is not installed, or if the network has layers that mix images.
    """
    draws = randomness(config.noise_source, generator)
    expected = num_images * sample_rate(num_images, batch_size)
    parameters = [each for each in network.parameters() if each.requires_grad]
    with per_image_gradients(network):
        dp = private_optimiser(
            optimiser, config.noise_multiplier, config.max_grad_norm, expected, draws
        )
        yield PrivateSteps(parameters, dp, terms_of, num_images, batch_size, gradient_clip, draws)


@contextmanager
def per_image_gradients(network: nn.Module) -> Iterator[None]:
    """Leave each image's gradient in ``grad_sample`` of each parameter in backward passes.

    Args:
        network: As for ``private_steps``.

    Raises:
        PrivacyError: As for ``private_steps``.
    """
    mixing = next(
        (
            name
            for name, each in network.named_modules()
            if isinstance(each, nn.modules.batchnorm._BatchNorm)
        ),
        None,
    )
    if mixing is not None:
        raise PrivacyError(
            f"{mixing} is a batch normalisation, which mixes the images of a batch, so that no "
            "gradient belongs to one of them; set "
            "network.norm: group"
        )
    require_opacus()
    from opacus import GradSampleModule  # noqa: PLC0415  # an extra, and seconds to import

    class Hooks(GradSampleModule):  # type: ignore[misc]  # the base is untyped
        GRAD_SAMPLERS: ClassVar[dict[type[nn.Module], Any]] = {
            **GradSampleModule.GRAD_SAMPLERS,
            nn.Conv2d: _convolution_gradients,
            Convolution: _convolution_gradients,
            Shortcut: _convolution_gradients,
        }

    # Kernels of SGD read gradients in the order of the weights: both are plain, as Opacus'
    # gradients are.
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
    draws: Randomness,
) -> Any:
    """Return Opacus' optimiser with noise from a source of ours.

    Args:
        optimiser: Takes the step.
        noise_multiplier: Standard deviation of the noise over ``max_grad_norm``.
        max_grad_norm: Largest norm of one image's gradient.
        expected: Images of a step on average; the noisy sum is divided by it.
        draws: Where noise comes from.
    """
    from opacus.optimizers import DPOptimizer  # noqa: PLC0415

    class Optimiser(DPOptimizer):  # type: ignore[misc]  # the base is untyped
        def add_noise(self) -> None:
            """Add noise in float64 and round once."""
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
    layer: nn.Conv2d, activations: Sequence[Tensor], slopes: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Return each image's gradient of a convolution without groups.

    Slopes times the neighbourhoods they belong to.

    In place of Opacus' own, which knows no subclasses and takes for granted that maps lie in memory
    channel by channel: where they lie pixel by pixel, as a hospital's images do, its gradients are
    wrong without a word.
    """
    shape: dict[str, Any] = {
        "dilation": layer.dilation,
        "padding": layer.padding,
        "stride": layer.stride,
    }
    neighbourhoods = functional.unfold(
        activations[0].to(slopes.dtype), layer.kernel_size, **shape
    )  # [B, D k k, h w]
    gradients = torch.einsum("beq,bdq->bed", slopes.flatten(2), neighbourhoods)
    weight: nn.Parameter = layer.weight  # type: ignore[assignment]  # pydicom takes text too
    found: dict[nn.Parameter, Tensor] = {weight: gradients.view(len(slopes), *weight.shape)}
    if layer.bias is not None:
        found[layer.bias] = slopes.sum((2, 3))  # type: ignore[index]  # one row was inserted
    return found
