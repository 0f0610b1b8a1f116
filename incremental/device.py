"""Device of networks: choose CPU or GPU, and move tensors there.

On a GPU a twin's work is done inside ``born_on``: what it is given is moved there once, what it
makes on the way is born there, and what leaves it is moved back. So no method names a device.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

DeviceName = Literal["auto", "cpu", "cuda"]
CPU = torch.device("cpu")


class DeviceError(ValueError):
    """A device that this machine does not have."""


def pick_device(name: DeviceName) -> torch.device:
    """Return the device of a name; ``auto`` is the GPU where torch can use one.

    Raises:
        DeviceError: If there is none.
    """
    there = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not there:
        raise DeviceError(
            "engine.device is 'cuda' and torch finds no GPU that it can use; set it to 'cpu' or "
            "'auto', or mend the driver"
        )
    return torch.device("cuda") if there else CPU


def device_title(device: torch.device) -> str:
    """Return what a person calls it."""
    return "the CPU" if device.type == "cpu" else f"the GPU {torch.cuda.get_device_name(device)}"


def born_on(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which new tensors are made on a device."""
    return nullcontext() if device.type == "cpu" else device


def generator_on(device: torch.device, seed: int) -> torch.Generator:
    """Return a source of draws that are made on a device; another device draws other numbers."""
    return torch.Generator(device).manual_seed(seed)


def moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return the tensors on a device; those that are there stay as they are."""
    return {name: value.to(device) for name, value in tensors.items()}
