"""A batch of logits, rows and weights, and slow forms of the losses' functions."""

from math import exp

import torch
from torch import Tensor

from twin.losses import HeadLoss

B, C, OLD = 6, 5, 3
HEADS: tuple[HeadLoss, ...] = ("bce", "ce")


def drawn(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LOGITS, TEACHER = drawn(B, C), drawn(B, OLD, seed=1)
ROWS = torch.tensor([0, 4, 2, 3, 1, 4])


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def softmax(values: list[float]) -> list[float]:
    total = sum(exp(value) for value in values)
    return [exp(value) / total for value in values]
