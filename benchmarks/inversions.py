"""Time to invert prototype gradients: all in one batch (ours) against one by one (public code)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch

from benchmarks.measuring import table, time_in_turns
from benchmarks.reference_round import PlainRules, Search, invert_plainly
from federation.experiment.config import ExperimentConfig
from federation.methods.fedka import FedKA
from incremental.reconstruction import GradientEncoder, invert


def inversion_table(config: ExperimentConfig, prototypes: int = 10, steps: int = 0) -> str:
    """Return the seconds of inverting prototypes in one batch and one by one.

    Args:
        config: Experiment whose method's settings are used.
        prototypes: Number of prototypes in our batch; one by one only one is timed.
        steps: Most steps of each search; 0: the search's own number.
    """
    reconstruction = cast(FedKA, config.method).reconstruction
    assert reconstruction is not None
    shape, classes = (1, 28, 28), 6
    encoder = GradientEncoder(shape, classes, reconstruction.public_seed)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(prototypes, *shape, generator=generator)
    rows = torch.arange(prototypes) % classes
    gradients = encoder.encode(images, rows)
    sizes = [each.shape for each in encoder.parameters()]
    one = [
        part.view(size)
        for part, size in zip(
            torch.split(gradients[0], [size.numel() for size in sizes]), sizes, strict=True
        )
    ]
    ours = replace(reconstruction, invert_steps=steps or reconstruction.invert_steps)
    works: dict[str, Callable[[], Any]] = {
        f"ours, {prototypes} in one batch": lambda: invert(
            encoder, gradients, shape, ours, generator
        )
    }
    for name, search, count in (
        ("one by one, same search", "adam", ours.invert_steps),
        ("one by one, L-BFGS as LGA", "lbfgs", steps or 250),
    ):
        rules = PlainRules(
            config.network,
            1,
            1,
            0.1,
            1,
            0.1,
            count,
            ours.public_seed,
            ours.stop_below,
            cast(Search, search),
        )
        works[name] = partial(invert_plainly, one, shape, classes, rules)
    seconds = time_in_turns(works, 1, warm_up=False)
    each = {
        name: value / prototypes if name.startswith("ours") else value
        for name, value in seconds.items()
    }
    first = next(iter(each.values()))
    return table(
        ("inversion", "s per prototype", "times ours"),
        [(name, f"{each[name]:.3f}", f"{each[name] / first:.1f}") for name in each],
    )
