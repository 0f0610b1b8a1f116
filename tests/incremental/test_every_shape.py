"""Every backbone, width, size, precision and layout once, in a process that may crash alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import torch
from incremental.head import grow_head
from incremental.network import NetworkConfig, build_network, initial_weights, frozen_network

torch.set_num_threads(1)
backbone, width = sys.argv[1], int(sys.argv[2])
for size in (16, 28, 33, 56, 64, 100, 224):
    config = NetworkConfig(backbone=backbone, width=width, image_size=size, channels=1)
    generator = torch.Generator().manual_seed(1)
    weights = grow_head(initial_weights(config, 1), 3, generator)
    images = torch.randint(0, 255, (2, 1, size, size), dtype=torch.uint8)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for bfloat16 in (False, True):
            network = build_network(config, weights).train().to(memory_format=memory_format)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = network(images).logits.float().square().sum()
            loss.backward()
            gradients = [each.grad for each in network.parameters()]
            assert all(each is not None and bool(each.isfinite().all()) for each in gradients)
        with torch.no_grad():
            frozen_network(config, weights)(images)
"""


@pytest.mark.parametrize("width", [4, 8, 16, 20])
@pytest.mark.parametrize("backbone", ["lenet", "resnet10", "resnet18"])
def test_a_network_of_every_shape_trains_and_infers_without_a_crash(
    backbone: str, width: int
) -> None:
    command = [sys.executable, "-c", PROGRAM, backbone, str(width)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
