"""Tensors shaped like a model's weights: select parameters, pad to a grown head, add labels."""

from collections.abc import Mapping

import torch

from incremental.head import HEAD_ROWS, Weights, pad_rows


def parameters_of(weights: Mapping[str, torch.Tensor]) -> Weights:
    """Return the trained parameters: weights without the statistics of batch normalisation."""
    return {
        name: value
        for name, value in weights.items()
        if value.is_floating_point() and "running_" not in name
    }


def padded(values: Mapping[str, torch.Tensor], rows: int) -> Weights:
    """Return weight-shaped values with zeros in the rows that the head gained since."""
    return {
        name: pad_rows(value, rows) if name in HEAD_ROWS else value
        for name, value in values.items()
    }


def labelled(label: str, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return values under ``label/name``: one message may carry several sets of them."""
    return {f"{label}/{name}": value for name, value in values.items()}


def with_label(label: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the values that ``labelled`` put under a label, by their own names."""
    return {
        name.removeprefix(f"{label}/"): value
        for name, value in tensors.items()
        if name.startswith(f"{label}/")
    }
