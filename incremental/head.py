"""Growing the classifier head: one row for each class, old rows keep their bits."""

from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

Weights = dict[str, Tensor]
HEAD_ROWS = ("head.weight", "head.bias")


def num_rows(weights: Weights) -> int:
    """Return the number of classes of the head of these weights."""
    return len(weights["head.bias"])


def grow_head(weights: Weights, num_new: int, generator: torch.Generator) -> Weights:
    """Return weights whose head has rows for new classes; old rows stay bit for bit.

    New rows are drawn as a fresh linear layer's: uniform in +-1/sqrt(D).

    Args:
        weights: State of an ``IncrementalNetwork``.
        num_new: Rows to add, 0 or more.
        generator: Source of the new rows.

    Returns:
        A new dict; tensors other than the head's are shared with ``weights``.

    Raises:
        ValueError: If ``num_new`` is negative.
    """
    if num_new < 0:
        raise ValueError(f"num_new is {num_new}; allowed: 0 or more; a head never shrinks")
    num_features = weights["head.weight"].shape[1]
    bound = 1 / sqrt(num_features)
    rows = torch.empty(num_new, num_features).uniform_(-bound, bound, generator=generator)
    biases = torch.empty(num_new).uniform_(-bound, bound, generator=generator)
    grown = {
        "head.weight": torch.cat([weights["head.weight"], rows]),
        "head.bias": torch.cat([weights["head.bias"], biases]),
    }
    return {**weights, **grown}


def pad_rows(values: Float[Tensor, "C ..."], rows: int) -> Float[Tensor, "R ..."]:
    """Return values with zero rows added up to ``rows``."""
    missing = rows - len(values)
    return (
        torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing > 0 else values
    )
