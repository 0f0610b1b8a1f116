"""A small network and its loss under DP-SGD."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from incremental.network import IncrementalNetwork, NetworkConfig, weights_of
from physical.transforms import AugmentationConfig, to_unit
from twin.batches import TrainingBatch
from twin.local_training import TrainingConfig, train_locally
from twin.objective import LocalContext, Terms
from twin.privacy.private_training import PrivateTraining

OFF = AugmentationConfig(crop_padding_pixels=0, brightness=0.0)
NETWORKS = {
    "lenet": NetworkConfig(backbone="lenet", width=4, norm="group", image_size=16),
    "resnet10": NetworkConfig(backbone="resnet10", width=2, norm="group", image_size=16),
}


ROWS = 5


@dataclass
class CrossEntropy:
    """A method whose loss is a mean over images."""

    replays: bool = True
    held_out_fraction: float = 0.0

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        logits = network(batch.images).logits
        return {
            "fit": functional.cross_entropy(logits, batch.rows),
            "size": 0.1 * logits.square().sum(1).mean(),
        }

    def finish_local(
        self, network: IncrementalNetwork, context: LocalContext
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        return {}, {}


def context_of(network: IncrementalNetwork) -> LocalContext:
    return LocalContext(
        num_rows=ROWS, groups=(tuple(range(ROWS)),), global_weights=weights_of(network)
    )


def train(
    network: IncrementalNetwork,
    data: tuple[Tensor, Tensor],
    private: PrivateTraining | None,
    seed: int = 1,
    **changes: Any,
) -> dict[str, float]:
    settings = {
        "batch_size": 8,
        "gradient_clip": None,
        "augmentation": OFF,
        "private": private,
        **changes,
    }
    config = TrainingConfig(epochs=1, **settings)
    generator = torch.Generator().manual_seed(seed)
    return train_locally(
        network, *data, CrossEntropy(), context_of(network), config, (0.1,), generator
    ).metrics


def terms_at(network: IncrementalNetwork, data: tuple[Tensor, Tensor]) -> Callable[[Tensor], Terms]:
    images = to_unit(data[0])
    return lambda chosen: CrossEntropy().local_loss(
        network, TrainingBatch(images[chosen], data[1][chosen]), context_of(network)
    )
