"""Predictions for people and services: class, probability and entropy of images."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from incremental.detection import entropy
from incremental.inference import logits_of
from incremental.model_file import ModelError
from incremental.network import IncrementalNetwork


@dataclass(frozen=True)
class Prediction:
    """Predictions of a model for N images.

    Args:
        rows: Row of the head with the largest logit, shape [N].
        probabilities: Softmax over the head's rows, shape [N, C].
        entropy_fractions: Entropy of each row of ``probabilities`` as a fraction of ln C, in [0,
            1], shape [N].
    """

    rows: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    entropy_fractions: NDArray[np.float32]


def predict(network: IncrementalNetwork, images: NDArray[np.uint8]) -> Prediction:
    """Return a network's predictions, from the float32 logits of ``logits_of`` bit for bit.

    Args:
        network: Network with one class or more.
        images: 8-bit pixels, shape [N, H, W, C] or, grey, [N, H, W].

    Raises:
        ModelError: If images have another type or shape, or the network has no class.
    """
    if len(network.head.bias) == 0:
        raise ModelError(
            "the model has 0 classes; allowed: 1 or more; take a model that was trained"
        )
    logits = logits_of(network, as_tensor(images, network.config.channels)).numpy()
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    largest_entropy = math.log(logits.shape[1]) or 1.0  # with one class the entropy is 0
    fractions = np.clip(entropy(logits) / np.float32(largest_entropy), 0, 1)
    return Prediction(logits.argmax(1), shifted / shifted.sum(1, keepdims=True), fractions)


def as_tensor(images: NDArray[np.uint8], channels: int) -> UInt8[Tensor, "N C H W"]:
    """Return images as a tensor for inference.

    Args:
        images: 8-bit pixels, shape [N, H, W, C] or [N, H, W].
        channels: Channels of the network; grey images fit any.

    Raises:
        ModelError: If images have another type or shape.
    """
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, channels):
        raise ModelError(
            f"images are {images.dtype} of shape {list(images.shape)}; allowed: uint8 of shape [N, "
            f"H, W] or [N, H, W, C] with C 1 or {channels}; convert them first"
        )
    # A copy, as images may be read-only.
    return torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C"))
