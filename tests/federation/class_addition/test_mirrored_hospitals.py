import numpy as np
import torch

from federation.class_addition.mirrored_hospitals import shrink
from incremental.network import IncrementalNetwork, NetworkConfig


def test_large_images_are_shrunk_as_the_network_would_shrink_them() -> None:
    network = IncrementalNetwork(
        NetworkConfig(backbone="lenet", width=4, image_size=28, channels=1), rows=1
    )
    large = np.random.default_rng(1).integers(0, 256, (3, 64, 64)).astype(np.uint8)
    direct = network.normalise(torch.from_numpy(large)[:, None].float() / 255)
    small = network.normalise(torch.from_numpy(shrink(large, 28))[:, None].float() / 255)
    assert (
        float((direct - small).abs().max()) <= 2 * 0.5 / 255 + 1e-6
    )  # half a grey level, and the network divides by 0.5
    assert shrink(large, 64) is large
